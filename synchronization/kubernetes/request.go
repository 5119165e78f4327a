package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Content types of requests.
const (
	typeJSON       = "application/json"
	typeJSONPatch  = "application/json-patch+json"
	typeMergePatch = "application/merge-patch+json"
	// typeMetadata has the server leave out all but the metadata of objects.
	typeMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
)

// Roots of the API groups in use.
const (
	groupCore         = "/api/v1"
	groupCoordination = "/apis/coordination.k8s.io/v1"
)

// fieldManager is one for all runners: the server notes for each manager which
// fields it wrote, so many names would fill the object.
const fieldManager = "cairn"

// call is a request as a role names it.
type call struct {
	verb     string
	group    string
	resource string
	name     string // "" for create, list and watch
	query    url.Values
	accept   string
	typ      string // of the body
	body     []byte
	global   bool // not of the backend's namespace
}

func (c call) writes() bool {
	return c.verb == "create" || c.verb == "patch" || c.verb == "delete"
}

func (c call) method() string {
	switch c.verb {
	case "create":
		return http.MethodPost
	case "patch":
		return http.MethodPatch
	case "delete":
		return http.MethodDelete
	}
	return http.MethodGet
}

func (b *Backend) url(c call) string {
	path := []string{c.group}
	if !c.global {
		path = append(path, "namespaces", b.namespace)
	}
	path = append(path, c.resource)
	onServer := c.verb != "create" && c.verb != "list" && c.verb != "watch"
	if onServer {
		path = append(path, c.name)
	}
	u := b.base.JoinPath(path...)
	query := url.Values{}
	for k, v := range c.query {
		query[k] = v
	}
	if c.verb == "create" || c.verb == "patch" {
		query.Set("fieldManager", fieldManager)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// do sends the request once and reads the answer into into, which may be nil.
func (b *Backend) do(ctx context.Context, c call, into any) error {
	resp, err := b.send(ctx, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return c.unanswered(b.namespace, fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

// send returns the answer when it is a success. The caller closes its body.
//
// An API server that has just started refuses everybody until it knows the
// roles, so a refusal is only believed of one that does not refuse what it
// allowed before.
func (b *Backend) send(ctx context.Context, c call) (*http.Response, error) {
	resp, err := b.exchange(ctx, c)
	var denied *DeniedError
	if err == nil {
		b.grant(c)
		return resp, nil
	}
	if !errors.As(err, &denied) {
		return nil, err
	}
	known, probe := b.rights(c)
	switch {
	case probe == nil:
		return nil, err
	case known || b.refuses(ctx, *probe):
		denied.Request.Err = lock.ErrUnavailable
		return nil, err
	}
	return b.exchange(ctx, c) // it may have learned the roles since
}

// refuses reports whether the server refuses a request that it allowed before.
func (b *Backend) refuses(ctx context.Context, probe call) bool {
	resp, err := b.exchange(ctx, probe)
	var denied *DeniedError
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		resp.Body.Close()
	}
	return errors.As(err, &denied)
}

// grant notes that c is allowed.
func (b *Backend) grant(c call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.granted[right{c.verb, c.resource}] = true
	if c.verb == "get" || c.verb == "list" {
		b.probe = &c
	}
}

// rights returns whether c was allowed before, and a read that was.
func (b *Backend) rights(c call) (known bool, probe *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.granted[right{c.verb, c.resource}], b.probe
}

// exchange sends the request and returns the answer when it is a success.
func (b *Backend) exchange(ctx context.Context, c call) (*http.Response, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, c.method(), b.url(c), bytes.NewReader(c.body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.verb, c.resource, err)
	}
	req.Header.Set("Accept", typeJSON)
	if c.accept != "" {
		req.Header.Set("Accept", c.accept)
	}
	if c.typ != "" {
		req.Header.Set("Content-Type", c.typ)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, c.unanswered(b.namespace, withCause(ctx, err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refused(b.namespace, resp.StatusCode, readStatus(resp.Body))
}

// maxStatus bounds what is read of an answer that is no object.
const maxStatus = 1 << 20

// readStatus reads what the server says about a failure; who stands in front of
// it, a load balancer perhaps, may say something else.
func readStatus(r io.Reader) status {
	raw, err := io.ReadAll(io.LimitReader(r, maxStatus))
	if err != nil {
		return status{}
	}
	return decodeStatus(raw)
}

func decodeStatus(raw []byte) status {
	var s status
	if json.Unmarshal(raw, &s) != nil {
		return status{}
	}
	return s
}

// withCause adds why the context ended, which the client does not say.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// Now implements [lock.Cells]: the API server's clock, of whole seconds, from the
// Date of an answer to a request of its own. Whether the request is allowed does
// not matter. Where several API servers answer their clocks are taken for one.
func (b *Backend) Now(ctx context.Context) (time.Time, error) {
	c := call{verb: "get", resource: "version", global: true}
	if err := ended(ctx); err != nil {
		return time.Time{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base.JoinPath("version").String(), http.NoBody)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the API server's clock: %w", err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return time.Time{}, c.unanswered(b.namespace, withCause(ctx, err))
	}
	defer resp.Body.Close()
	s := readStatus(resp.Body) // to the end, so that the connection is used again
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return time.Time{}, c.refused(b.namespace, resp.StatusCode, s)
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the API server's clock: %w", err)
	}
	return now, nil
}
