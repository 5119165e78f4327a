package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// observe follows the ledger's shards straight from the API server, by a watch
// that is begun again where it breaks off, until the result is called. What it
// sees must agree with what the proxies saw.
func (r *round) observe(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			if err := r.watchShards(ctx); err != nil {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	return func() {
		// Once more, for what came after the last watch broke off.
		if _, err := r.listShards(ctx); err != nil {
			r.fail(fmt.Errorf("look at the ledger: %w", err))
		}
		cancel()
		done.Wait()
	}, nil
}

// shardsPath is what the ledgers of all rounds are in.
const shardsPath = "/api/v1/namespaces/" + namespace + "/configmaps"

// watchShards lists the shards and follows them until the watch ends.
func (r *round) watchShards(ctx context.Context) error {
	since, err := r.listShards(ctx)
	if err != nil {
		return err
	}
	body, err := r.fromAPI(ctx, shardsPath+"?watch=1&resourceVersion="+since)
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var e struct {
			Type   string
			Object configMap
		}
		if err := d.Decode(&e); err != nil {
			return err
		}
		if e.Type == "ERROR" {
			return errors.New("the watch ended")
		}
		r.noteShard(e.Object)
	}
}

// listShards notes how all shards are, and returns the revision of the whole.
func (r *round) listShards(ctx context.Context) (string, error) {
	body, err := r.fromAPI(ctx, shardsPath)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var all configMap
	if err := json.NewDecoder(body).Decode(&all); err != nil {
		return "", err
	}
	for _, c := range all.Items {
		r.noteShard(c)
	}
	return all.Metadata.ResourceVersion, nil
}

// noteShard notes a ConfigMap if it is of this round's ledger.
func (r *round) noteShard(c configMap) {
	record := "cairn-" + r.project.name
	if c.Metadata.Name != record && !strings.HasPrefix(c.Metadata.Name, record+".") {
		return
	}
	if rev, ok := c.revision(); ok {
		r.record.revision(rev)
	}
}

func (r *round) fromAPI(ctx context.Context, path string) (io.ReadCloser, error) {
	target := *r.lab.toAPI.url
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String()+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := r.lab.toAPI.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return resp.Body, nil
}
