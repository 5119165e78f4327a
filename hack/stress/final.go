package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/cairnbuild/cairn/hack/history"
)

// finals notes what the registry holds at the end, all of it read and compared
// with its digests, and what its own log says of writes.
func (r *round) finals(ctx context.Context) error {
	f := &finalReader{base: r.lab.registry.URL() + "/v2/" + r.project.name, client: r.lab.registry.Client(), read: map[string]error{}}
	var list struct{ Tags []string }
	raw, err := f.get(ctx, "/tags/list")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("read the tags: %w", err)
	}
	for _, tag := range list.Tags {
		e := history.Event{Kind: history.Final, Tag: tag}
		body, err := f.get(ctx, "/manifests/"+tag)
		if err == nil {
			e.Digest, e.Lists = digestOf(body), listed(body)
			err = f.whole(ctx, body)
		}
		if err != nil {
			e.Note = err.Error()
		}
		r.record.add(e)
	}
	return r.logged(ctx)
}

// logged notes how often the registry says that it stored each manifest.
func (r *round) logged(ctx context.Context) error {
	all, err := r.lab.registry.AccessLog(ctx)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, q := range all {
		ref, ok := strings.CutPrefix(q.Path, "/v2/"+r.project.name+"/manifests/")
		if ok && q.Method == http.MethodPut && q.Status == http.StatusCreated {
			count[ref]++
		}
	}
	for ref, n := range count {
		e := history.Event{Kind: history.Logged, Tag: ref, Count: n}
		if isDigest(ref) {
			e.Tag, e.Digest = "", ref
		}
		r.record.add(e)
	}
	return nil
}

// finalReader reads all that tags refer to, each thing once.
type finalReader struct {
	base   string
	client *http.Client
	read   map[string]error
}

type descriptor struct{ Digest string }

// manifest has the references of an image and of an index.
type manifest struct {
	Config            *descriptor
	Layers, Manifests []descriptor
}

// whole reads everything below a manifest.
func (f *finalReader) whole(ctx context.Context, raw []byte) error {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	for _, d := range m.Manifests {
		if err := f.once(ctx, "/manifests/", d.Digest, f.whole); err != nil {
			return err
		}
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, d := range m.Layers {
		if err := f.once(ctx, "/blobs/", d.Digest, func(context.Context, []byte) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// once reads what has a digest, checks it, and goes on below it.
func (f *finalReader) once(ctx context.Context, where, digest string, below func(context.Context, []byte) error) error {
	if err, ok := f.read[digest]; ok {
		return err
	}
	body, err := f.get(ctx, where+digest)
	if err == nil && digestOf(body) != digest {
		err = fmt.Errorf("%s%s has other bytes", where, digest)
	}
	if err == nil {
		err = below(ctx, body)
	}
	f.read[digest] = err
	return err
}

func (f *finalReader) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<30))
}
