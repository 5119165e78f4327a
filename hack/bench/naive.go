package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

const (
	// naiveTime is how long the naive runners work; all stages would take minutes.
	naiveTime = 5 * time.Second
	// naivePause is the most that they wait after another was faster.
	naivePause = 20 * time.Millisecond
)

func dialer() *net.Dialer { return &net.Dialer{Timeout: time.Minute} }

// apply makes what a manifest describes.
func (y *clusterYard) apply(ctx context.Context, manifest string) error {
	cmd := y.cluster.Kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the manifest: %w: %s", err, out)
	}
	return nil
}

// naive does three writes a cycle, as the ledger does: read the one object, change
// a key, write it back, and again when somebody was faster.
func (y *clusterYard) naive(ctx context.Context) (load, error) {
	space := y.space()
	// A runner may not update, so these are administrators.
	config := y.cluster.Config()
	if _, err := y.user(ctx, space); err != nil {
		return load{}, err
	}
	url := config.Host + "/api/v1/namespaces/" + space + "/configmaps"
	first := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"locks"},"data":{"a":"1"}}`)
	m := &meter{}
	writers := make([]*http.Client, ledgerSessions)
	defer func() {
		for _, w := range writers {
			if w != nil {
				w.CloseIdleConnections()
			}
		}
	}()
	for i := range writers {
		own := rest.CopyConfig(config)
		own.Dial, own.NextProtos = dialer().DialContext, []string{"http/1.1"}
		var err error
		if writers[i], err = rest.HTTPClientFor(own); err != nil {
			return load{}, err
		}
	}
	if err := exchange(ctx, writers[0], http.MethodPost, url, first, nil); err != nil {
		return load{}, err
	}
	return y.measure(m, func() error {
		began := time.Now()
		all, ctx := errgroup.WithContext(ctx)
		for i, w := range writers {
			all.Go(func() error {
				for n := 0; time.Since(began) < naiveTime; n++ {
					if err := naiveCycle(ctx, w, url+"/locks", fmt.Sprintf("stage-%d-%d", i, n), m); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return all.Wait()
	})
}

func naiveCycle(ctx context.Context, c *http.Client, url, key string, m *meter) error {
	began := time.Now()
	for _, state := range []string{"building", "publishing", "published"} {
		begin := time.Now()
		if err := rewrite(ctx, c, url, key, state, m); err != nil {
			return err
		}
		m.steps.add(time.Since(begin))
	}
	m.cycles.add(time.Since(began))
	return nil
}

func rewrite(ctx context.Context, c *http.Client, url, key, value string, m *meter) error {
	for {
		var o map[string]any
		m.requests.Add(2)
		if err := exchange(ctx, c, http.MethodGet, url, nil, &o); err != nil {
			return err
		}
		o["data"].(map[string]any)[key] = value
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		err = exchange(ctx, c, http.MethodPut, url, body, nil)
		if !errors.Is(err, errFaster) {
			return err
		}
		m.refused.Add(1)
		<-time.After(rand.N(naivePause))
	}
}

// errFaster: the object was written since it was read.
var errFaster = errors.New("somebody was faster")

func exchange(ctx context.Context, c *http.Client, method, url string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusConflict:
		return errFaster
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, raw)
	case into == nil:
		return nil
	}
	return json.Unmarshal(raw, into)
}
