package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// keeping is a body that remembers what was read of it.
type keeping struct {
	io.ReadCloser
	read []byte
}

// Read implements [io.Reader].
func (k *keeping) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	k.read = append(k.read, p[:n]...)
	return n, err
}

// serveAPI is the API server as the runner sees it. It records what happens to
// ConfigMaps, and which sessions the runner makes.
func (f *front) serveAPI(w http.ResponseWriter, r *http.Request) {
	defer f.weather.pending.begin()()
	resource, name := resourceOf(r.URL.Path)
	kept := &keeping{ReadCloser: r.Body}
	r.Body = kept
	x := exchange{to: f.api, note: func(answer, history.Event) {}}
	switch {
	case r.URL.Query().Get("watch") != "":
		f.watch(w, r)
		return
	case resource == "configmaps" && r.Method == http.MethodGet:
		x.note = f.noteRead
	case resource == "configmaps" && (r.Method == http.MethodPatch || r.Method == http.MethodPost):
		x.deferrable = r.Method == http.MethodPatch
		x.note = func(a answer, e history.Event) { f.noteWrite(name, kept.read, a, e) }
	case resource == "leases" && r.Method == http.MethodPost:
		x.note = func(_ answer, e history.Event) { f.noteSession(kept.read, e) }
	}
	f.pass(w, r, x)
}

// resourceOf returns what a path of the API is about: the last parts of
// …/namespaces/NAMESPACE/RESOURCE[/NAME].
func resourceOf(path string) (resource, name string) {
	_, rest, ok := strings.Cut(path, "/namespaces/")
	if !ok {
		return "", ""
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 2 {
		return "", ""
	}
	if len(parts) > 2 {
		name = parts[2]
	}
	return parts[1], name
}

// watch passes a watch on, some of them not for long.
func (f *front) watch(w http.ResponseWriter, r *http.Request) {
	if f.dice.float() >= f.rates.cut {
		f.stream(w, r, f.api, false)
		return
	}
	f.weather.injected[dropped].Add(1)
	ctx, cancel := context.WithTimeout(r.Context(), f.dice.upTo(maxWatch)+10*time.Millisecond)
	defer cancel()
	f.stream(w, r.WithContext(ctx), f.api, false)
	panic(http.ErrAbortHandler)
}

// configMap is one as far as it is looked at.
type configMap struct {
	Metadata struct {
		Name            string `json:"name"`
		UID             string `json:"uid"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data  map[string]string `json:"data"`
	Items []configMap       `json:"items"`
}

// revision returns the state that a ConfigMap shows, false for what is none.
func (c configMap) revision() (history.Revision, bool) {
	n, err := strconv.ParseUint(c.Metadata.ResourceVersion, 10, 64)
	if err != nil || c.Metadata.Name == "" {
		return history.Revision{}, false
	}
	data := map[string]string{}
	for k, v := range c.Data {
		if k != "_about" {
			data[k] = v
		}
	}
	return history.Revision{Shard: c.Metadata.Name, UID: c.Metadata.UID, Number: n, Data: data}, true
}

// noteRead records what a read showed of each shard.
func (f *front) noteRead(a answer, e history.Event) {
	var got configMap
	if a.status != http.StatusOK || json.Unmarshal(a.body, &got) != nil {
		return
	}
	for _, c := range append(got.Items, got) {
		if rev, ok := c.revision(); ok {
			f.record.revision(rev)
			e.Kind, e.Shard, e.Revision = history.LedgerRead, rev.Shard, rev.Number
			f.record.add(e)
		}
	}
}

// noteWrite records what a write asked for, and which revision it made.
func (f *front) noteWrite(shard string, body []byte, a answer, e history.Event) {
	e.Kind, e.Shard = history.LedgerWrite, shard
	if shard == "" {
		var made configMap
		if json.Unmarshal(body, &made) != nil {
			return
		}
		e.Shard = made.Metadata.Name
		for k, v := range made.Data {
			e.Changes = append(e.Changes, history.Change{Key: k, New: v})
		}
	} else {
		e.Changes = changesOf(body)
	}
	var got configMap
	if a.status/100 == 2 && json.Unmarshal(a.body, &got) == nil {
		if rev, ok := got.revision(); ok {
			f.record.revision(rev)
			e.Revision = rev.Number
		}
	}
	f.record.add(e)
}

// changesOf reads a JSON patch: what it tests and what it writes of each key.
func changesOf(body []byte) []history.Change {
	var ops []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if json.Unmarshal(body, &ops) != nil {
		return nil
	}
	old, written := map[string]string{}, []history.Change{}
	for _, op := range ops {
		key, ok := strings.CutPrefix(op.Path, "/data/")
		if !ok {
			continue
		}
		key = strings.NewReplacer("~1", "/", "~0", "~").Replace(key)
		var value string
		_ = json.Unmarshal(op.Value, &value) // null is absence
		if op.Op == "test" {
			old[key] = value
			continue
		}
		written = append(written, history.Change{Key: key, Old: old[key], New: value})
	}
	return written
}

// noteSession records which session the runner makes, whatever becomes of it.
func (f *front) noteSession(body []byte, e history.Event) {
	var lease configMap
	if json.Unmarshal(body, &lease) != nil {
		return
	}
	if i := strings.LastIndex(lease.Metadata.Name, "."); i >= 0 {
		e.Kind, e.Session = history.Session, lease.Metadata.Name[i+1:]
		f.record.add(e)
	}
}
