package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// request is one HTTP request, sent once.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   payload
	kind   Kind
	// stream: the answer's body is a blob. It gives its slot back before the body is read.
	stream bool
	// unlimited requests take no slot: they go on with something that is under way.
	unlimited bool
}

// payload is the body of a request; the zero value is none.
type payload struct {
	open func() (io.ReadCloser, error)
	size int64
}

// errStalled is the cause with which a request ends that has made no progress.
var errStalled = errors.New("no progress")

// send sends r once. The answer's body counts what is read of it, ends when
// nothing moves for too long, and must be closed.
func (h *host) send(ctx context.Context, r request) (*http.Response, error) {
	body := &sending{size: r.body.size}
	if r.body.size > 0 {
		// Opened before a slot is taken: opening may itself need one.
		src, err := r.body.open()
		if err != nil {
			return nil, &sourceError{err}
		}
		body.r = src
		defer body.stop()
	}
	release, err := h.slot(ctx, r.unlimited)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{o: h.o.Timeouts, cancel: cancel}
	w.timer = time.AfterFunc(h.o.Timeouts.Connect+h.o.Timeouts.Answer, w.expire)
	body.watch = w

	x := h.exchange(r)
	x.release, x.watch, x.sending = release, w, body
	req, err := h.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { x.sent.Store(true) },
	}), r, body)
	if err != nil {
		x.end()
		return nil, err
	}
	if x.ID != "" {
		req.Header.Set(HeaderRequestID, x.ID)
	}
	resp, err := h.o.Transport.RoundTrip(req)
	body.stop()
	if err != nil {
		defer x.end()
		return nil, w.why(ctx, body, err)
	}
	resp.Request = req
	h.budget.answered(resp.StatusCode == http.StatusTooManyRequests)
	x.answered(resp, r.stream)
	return resp, nil
}

func (h *host) request(ctx context.Context, r request, body *sending) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be used", errUnsafeURL)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", h.o.UserAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if body.r != nil {
		req.Body, req.ContentLength = body, r.body.size
	}
	return req, nil
}

// slot waits for one of the host's slots and returns how to give it back, which
// may be called more than once.
func (h *host) slot(ctx context.Context, unlimited bool) (func(), error) {
	if unlimited {
		return func() {}, ctx.Err()
	}
	return h.budget.take(ctx)
}

// watch ends a request that makes no progress. Its timer runs only while the
// other side is at work, never while our own side reads or writes.
type watch struct {
	o      Timeouts
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func (w *watch) expire() { w.cancel(errStalled) }

func (w *watch) close() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// why returns the error that explains err best.
func (w *watch) why(ctx context.Context, body *sending, err error) error {
	if failed := body.failure(); failed != nil {
		return &sourceError{failed}
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w: nothing was received in time (%s for an answer, %s for a body)", errStalled, w.o.Answer, w.o.Idle)
	}
	return err
}

// sending is the body of a request. The transport may still read when the answer
// has come; stop ends that, so that the source is never used after the request.
type sending struct {
	watch *watch
	size  int64
	count atomic.Int64

	mu      sync.Mutex
	r       io.ReadCloser
	stopped bool
	err     error
}

func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped && s.count.Load() == s.size:
		return 0, io.EOF // the transport only makes sure that this is the end
	case s.stopped:
		return 0, http.ErrBodyReadAfterClose
	}
	s.watch.timer.Stop()
	n, err := s.r.Read(p)
	s.count.Add(int64(n))
	switch {
	case err == nil:
		s.watch.timer.Reset(s.watch.o.Idle)
	case errors.Is(err, io.EOF):
		s.watch.timer.Reset(s.watch.o.Answer)
	default:
		s.err = err
	}
	return n, err
}

// Close implements [io.Closer] for the transport.
func (s *sending) Close() error {
	s.stop()
	return nil
}

func (s *sending) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil || s.stopped {
		return
	}
	s.stopped = true
	// A source that was read without an error has nothing left to report.
	_ = s.r.Close()
}

func (s *sending) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// exchange accounts for one request until the body of its answer is closed.
type exchange struct {
	Exchange
	seen    func(Exchange)
	now     func() time.Time // nil where nobody tells the time
	began   time.Time
	release func()
	watch   *watch
	sending *sending
	sent    atomic.Bool
	once    sync.Once
}

// exchange begins the account of r.
func (h *host) exchange(r request) *exchange {
	x := &exchange{seen: h.o.Observe, now: h.o.Now}
	x.Exchange = Exchange{Host: r.url.Host, Method: r.method, Kind: r.kind, ID: h.o.RequestID(), Path: shownPath(r)}
	if x.now != nil {
		x.began = x.now()
	}
	return x
}

// shownPath returns what of an address may be shown: whoever knows the name of an
// upload may be able to go on with it, and elsewhere all of it may be signed.
func shownPath(r request) string {
	if r.kind == KindRedirected {
		return ""
	}
	const uploads = "/blobs/uploads/"
	path := r.url.Path
	if i := strings.Index(path, uploads); i >= 0 {
		path = path[:i+len(uploads)]
	}
	return path
}

func (x *exchange) answered(resp *http.Response, stream bool) {
	x.sent.Store(true)
	x.Status = resp.StatusCode
	if x.Status == http.StatusUnauthorized && x.Kind == KindRegistry {
		x.Kind = KindAuth
	}
	x.watch.timer.Stop()
	if stream && resp.StatusCode < 300 {
		x.release()
	}
	resp.Body = &receiving{x: x, ctx: resp.Request.Context(), r: resp.Body}
}

func (x *exchange) end() {
	x.once.Do(func() {
		x.watch.close()
		x.release()
		x.Sent = x.sending.count.Load()
		if x.now != nil {
			x.Took = x.now().Sub(x.began)
		}
		if x.sent.Load() {
			x.seen(x.Exchange)
		}
	})
}

// receiving is the body of an answer.
type receiving struct {
	x   *exchange
	ctx context.Context // of this request alone; it holds the cause of a stall
	r   io.ReadCloser
}

func (b *receiving) Read(p []byte) (int, error) {
	b.x.watch.timer.Reset(b.x.watch.o.Idle)
	n, err := b.r.Read(p)
	b.x.watch.timer.Stop()
	b.x.Received += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.x.watch.why(b.ctx, &sending{}, err)
	}
	return n, err
}

func (b *receiving) Close() error {
	err := b.r.Close()
	b.x.end()
	return err
}

// discard reads what is left of a short answer, so that its connection can be
// used again, and closes it.
func discard(resp *http.Response) {
	// Whatever fails here only costs the connection.
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	_ = resp.Body.Close()
}

// withHeader returns a header of one field.
func withHeader(key, value string) http.Header { return http.Header{key: {value}} }
