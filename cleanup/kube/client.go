package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// maxAnswer bounds one answer of an API server, in bytes: a page of objects.
	maxAnswer = 256 << 20
	// attempts is how often a request is sent that is not answered.
	attempts = 4
	// maxPause bounds what an API server may have us wait for.
	maxPause = 10 * time.Second
	// answerTime is how long an answer may take.
	answerTime = 2 * time.Minute
)

// client reads from one API server.
type client struct {
	// cluster is its name.
	cluster string
	http    *http.Client
	base    *url.URL
	// most bounds one answer, in bytes.
	most int64
}

// fail says that a resource of the cluster could not be read.
func (c *client) fail(resource string, err error) *Error {
	return &Error{Cluster: c.cluster, Resource: resource, Status: statusOf(err), Err: err}
}

func newClient(cluster Cluster, agent string) (*client, error) {
	config := rest.CopyConfig(cluster.Config)
	config.UserAgent = agent
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return &client{cluster: cluster.Name, http: h, base: base, most: maxAnswer}, nil
}

// statusError is an answer that is not 200.
type statusError struct {
	status  int
	message string
	pause   time.Duration
}

func (e *statusError) Error() string {
	if e.message == "" {
		return http.StatusText(e.status)
	}
	return e.message
}

// errTooLarge says that an answer has more bytes than are read of one.
var errTooLarge = errors.New("an answer is too large")

// again reports whether the same request may be answered later.
func (e *statusError) again() bool {
	return e.status == http.StatusTooManyRequests || e.status >= http.StatusInternalServerError
}

// statusOf returns the HTTP status of an error, 0 where there was none.
func statusOf(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	return 0
}

// get reads JSON, and tries again what may be answered later.
func (c *client) get(ctx context.Context, path string, query url.Values, into any) error {
	var err error
	for n := range attempts {
		if err = c.once(ctx, path, query, into); err == nil || ctx.Err() != nil || errors.Is(err, errTooLarge) {
			return err // it would be as large again
		}
		pause := time.Duration(1<<n) * 250 * time.Millisecond
		var s *statusError
		if errors.As(err, &s) {
			if !s.again() {
				return err
			}
			pause = max(pause, min(s.pause, maxPause))
		}
		if n+1 == attempts {
			break
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (c *client) once(ctx context.Context, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, c.most+1))
	switch {
	case err != nil:
		return err
	case int64(len(b)) > c.most:
		return fmt.Errorf("%w: it has more than %d MiB", errTooLarge, c.most>>20)
	case resp.StatusCode != http.StatusOK:
		return refused(resp, b)
	}
	return json.Unmarshal(b, into)
}

// withoutURL leaves out the address, which the context's name stands for.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func refused(resp *http.Response, body []byte) error {
	const longest = 500
	var status struct {
		Message string `json:"message"`
	}
	// A proxy before the API server answers in its own words, which are of no use.
	_ = json.Unmarshal(body, &status)
	e := &statusError{status: resp.StatusCode, message: status.Message[:min(len(status.Message), longest)]}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.pause = time.Duration(min(n, 3600)) * time.Second
	}
	return e
}
