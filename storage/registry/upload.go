package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// smallBlob is the size in bytes up to which a blob is sent without asking first
// whether it is there: the question would cost as much as the bytes.
const smallBlob = 1 << 20

// hint is what earlier requests have said about a blob that is not there yet.
type hint struct {
	// absent: a HEAD has just not found it.
	absent bool
	// session is an upload that a refused mount has begun; it can be used once.
	session *url.URL
}

// hints remembers a bounded number of hints. A lost one costs a request.
type hints struct {
	mu sync.Mutex
	m  map[string]hint
}

const maxHints = 4096

func (h *hints) put(d digest.Digest, v hint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.session == nil {
		v.session = h.m[d.String()].session // begun before, and still to be used
	}
	if len(h.m) < maxHints {
		h.m[d.String()] = v
	}
}

func (h *hints) take(d digest.Digest) hint {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.m[d.String()]
	delete(h.m, d.String())
	return v
}

// PushBlob implements [storage.Pusher] with a POST and a PUT. Blobs of more than
// 1 MiB are asked for by a HEAD before, unless HasBlob or MountBlob has just done so.
// After a MountBlob that was answered with an upload, the POST is spared too.
// Who pushes what is on its way already waits for that.
func (s *Storage) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	return s.pushes.once(ctx, d.Digest, func() error { return s.pushBlob(ctx, d, c) })
}

func (s *Storage) pushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	u := upload{s: s, d: d, content: c, operation: operation{"push blob", s.Address(), d.Digest.String()}}
	if err := d.Digest.Validate(); err != nil || d.Size < 0 {
		return u.fail(ctx, invalid("digest %q or size %d cannot be", tidy(d.Digest.String()), d.Size))
	}
	known := s.hints.take(d.Digest)
	u.session = known.session
	if !known.absent && known.session == nil && d.Size > smallBlob {
		if there, err := s.HasBlob(ctx, d); err != nil || there {
			return err
		}
		s.hints.take(d.Digest)
	}
	return s.host.persist(ctx, u.operation, func(attempt int) error { return u.once(ctx, attempt) })
}

// upload is one blob on its way.
type upload struct {
	operation
	s       *Storage
	d       ocispec.Descriptor
	content storage.Content
	// session is where to send to; nil before it has been asked for.
	session *url.URL
	// minChunk is what the registry wants each chunk but the last to have at least.
	minChunk int64
}

// maxSessions bounds how often an upload that the registry has forgotten is begun anew.
const maxSessions = 3

// once sends the blob. An upload that failed in the middle is never gone on with:
// what the registry has kept of it is not known.
func (u *upload) once(ctx context.Context, attempt int) error {
	if attempt > 1 && u.d.Size > smallBlob {
		// The answer may have been lost, and not the blob.
		if there, err := u.s.HasBlob(ctx, u.d); err == nil && there {
			return nil
		}
	}
	var err error
	for range maxSessions {
		if u.session == nil {
			if err := u.begin(ctx, attempt); err != nil {
				return err
			}
		}
		err = u.send(ctx, attempt)
		u.session = nil
		if statusOf(err) != http.StatusNotFound || !errors.Is(classOf(err), storage.ErrNotFound) {
			return err
		}
	}
	return err
}

// begin asks for a session.
func (u *upload) begin(ctx context.Context, attempt int) error {
	resp, err := u.s.host.try(ctx, u.call(http.MethodPost, u.s.url("blobs/uploads/")), attempt)
	if err != nil {
		return err
	}
	discard(resp)
	return u.moved(resp)
}

// moved takes the session's address from an answer.
func (u *upload) moved(resp *http.Response) error {
	session, err := follow(resp.Request.URL, resp.Header.Get("Location"))
	if err != nil {
		return err
	}
	u.session = session
	if n, err := strconv.ParseInt(resp.Header.Get("Oci-Chunk-Min-Length"), 10, 64); err == nil {
		u.minChunk = min(max(n, 0), maxChunk)
	}
	return nil
}

func (u *upload) call(method string, to *url.URL) call {
	c := u.s.call(u.op, u.subject, method, "", actionPull, actionPush)
	c.url = to
	return c
}

// send sends the blob whole, or in chunks where the registry does not take it whole.
func (u *upload) send(ctx context.Context, attempt int) error {
	if u.s.host.chunked.Load() {
		return u.sendChunks(ctx, attempt)
	}
	err := u.sendWhole(ctx, attempt)
	if !u.wantsChunks(err) {
		return err
	}
	if e := u.begin(ctx, attempt); e != nil {
		return e
	}
	if e := u.sendChunks(ctx, attempt); e != nil {
		// The first refusal names the cause where chunks are refused as well.
		if errors.Is(classOf(e), storage.ErrTransient) || errors.Is(classOf(e), storage.ErrRateLimited) || ctx.Err() != nil {
			return e
		}
		return err
	}
	u.s.host.chunked.Store(true)
	return nil
}

// wantsChunks reports whether err is how registries, or proxies before them,
// refuse a blob in one piece.
func (u *upload) wantsChunks(err error) bool {
	var r *refusal
	if !errors.As(err, &r) || r.token || invalidCode(r.code) {
		return false
	}
	if r.status == http.StatusRequestEntityTooLarge {
		return u.d.Size > u.s.host.chunk
	}
	return slices.Contains([]int{
		http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusLengthRequired, http.StatusUnsupportedMediaType,
		http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented,
	}, r.status)
}

func (u *upload) sendWhole(ctx context.Context, attempt int) error {
	c := u.call(http.MethodPut, u.closing())
	c.header = withHeader("Content-Type", "application/octet-stream")
	c.body = payload{open: u.open, size: u.d.Size}
	return u.done(u.s.host.try(ctx, c, attempt))
}

// closing returns the address that ends the session. The query is appended to as
// it is: some registries sign it byte by byte.
func (u *upload) closing() *url.URL {
	to := *u.session
	if to.RawQuery != "" {
		to.RawQuery += "&"
	}
	to.RawQuery += "digest=" + url.QueryEscape(u.d.Digest.String())
	return &to
}

// done checks the answer to the request that ends the upload.
func (u *upload) done(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	discard(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != u.d.Digest.String() {
		return corrupt("the registry has stored %s", tidy(got))
	}
	return nil
}

// open opens the content, verified while it is sent: what is wrong here must not
// arrive there, not even to be refused.
func (u *upload) open() (io.ReadCloser, error) {
	r, err := u.content.Open()
	if err != nil {
		return nil, err
	}
	return storage.VerifyReader(r, u.d), nil
}
