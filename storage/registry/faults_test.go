package registry

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage"
)

// faultRow is a row of the table: what goes wrong between Cairn and a real registry,
// and how that ends.
type faultRow struct {
	name string
	// hook answers in the registry's place, change bends its answers; nil for neither.
	// The hook is told which image is there.
	hook   func(t *testing.T, c cargo) hook
	change func(*http.Response) error
	// do is what is tried while the fault lasts; what comes before it goes well.
	do func(trip) error
	// class is the one of the error; nil where Cairn gets over it.
	class error
	// most bounds the requests that are sent.
	most int
	// silence is how long nothing may move; 0 for longer than a busy machine takes.
	silence time.Duration
}

// Sizes of layers: one that is sent without a question, one that is asked for first.
const (
	smallCargo = 200_000
	largeCargo = 3 << 20
)

func fixed(h hook) func(*testing.T, cargo) hook {
	return func(*testing.T, cargo) hook { return h }
}

func busy(header ...string) hook { return status(http.StatusTooManyRequests, header...) }

func authFaults() []faultRow {
	return []faultRow{
		{"tokens that are good for three requests each are renewed in the middle of the work", func(t *testing.T, _ cargo) hook { return newGuard(t, 3).check }, nil, trip.both, nil, 30, 0},
		{"tokens that are good for one request only still do", func(t *testing.T, _ cargo) hook { return newGuard(t, 1).check }, nil, trip.both, nil, 40, 0},
		{"tokens that are never accepted are unauthorized after one renewal", func(t *testing.T, _ cargo) hook { return newGuard(t, 0).check }, nil, trip.pull, storage.ErrUnauthorized, 2, 0},
		{"403 to a read is denied at once", fixed(to("GET", "/manifests/", status(403))), nil, trip.pull, storage.ErrDenied, 2, 0},
		{"403 to an upload is denied at once", fixed(to("POST", "/blobs/uploads/", status(403))), nil, trip.push, storage.ErrDenied, 1, 0},
	}
}

func statusFaults() []faultRow {
	// A date is compared with the Date of the answer, which the server adds itself.
	date := func(d time.Duration) hook {
		return func(w http.ResponseWriter, r *http.Request) bool {
			now := time.Now().UTC().Truncate(time.Second)
			return busy("Date", now.Format(http.TimeFormat), "Retry-After", now.Add(d).Format(http.TimeFormat))(w, r)
		}
	}
	return []faultRow{
		{"404 to a manifest is not found", fixed(to("", "/manifests/", status(404))), nil, trip.pull, storage.ErrNotFound, 1, 0},
		{"404 to a blob that a manifest names is not found", fixed(to("GET", "/blobs/", status(404))), nil, trip.pull, storage.ErrNotFound, 3, 0},
		{"404 to an upload, as of a repository that must be made first, is not found", fixed(to("POST", "", status(404))), nil, trip.push, storage.ErrNotFound, 1, 0},
		{"413 to a manifest is too large", fixed(to("PUT", "/manifests/", status(413))), nil, trip.push, storage.ErrTooLarge, 6, 0},
		{"429 with seconds is waited for", fixed(everyThird(busy("Retry-After", "1"))), nil, trip.both, nil, 30, 0},
		{"429 with a date is waited for", fixed(times(3, date(2*time.Second))), nil, trip.both, nil, 20, 0},
		{"429 with a date next year is told at once", fixed(date(365 * 24 * time.Hour)), nil, trip.pull, storage.ErrRateLimited, 1, 0},
		{"429 for ever is told after a few attempts", fixed(busy("Retry-After", "2")), nil, trip.pull, storage.ErrRateLimited, 5, 0},
		{"429 with nonsense is tried again as without", fixed(times(2, busy("Retry-After", "soon"))), nil, trip.both, nil, 20, 0},
		{"408 to every third request is got over", fixed(everyThird(status(408))), nil, trip.both, nil, 40, 0},
		{"408 for ever is transient", fixed(status(408)), nil, trip.pull, storage.ErrTransient, 5, 0},
		{"425 to every third request is got over", fixed(everyThird(status(425))), nil, trip.both, nil, 40, 0},
		{"425 for ever is transient", fixed(status(425)), nil, trip.pull, storage.ErrTransient, 5, 0},
		{"503 with seconds is waited for", fixed(everyThird(status(503, "Retry-After", "1"))), nil, trip.both, nil, 30, 0},
		{"503 with a wait beyond the budget is told at once", fixed(status(503, "Retry-After", "600")), nil, trip.pull, storage.ErrTransient, 1, 0},
		{"500 to every third request is got over", fixed(everyThird(status(500))), nil, trip.both, nil, 40, 0},
		{"502 to every third request is got over", fixed(everyThird(status(502))), nil, trip.both, nil, 40, 0},
		{"503 to every third request is got over", fixed(everyThird(status(503))), nil, trip.both, nil, 40, 0},
		{"504 for ever is transient", fixed(status(504)), nil, trip.pull, storage.ErrTransient, 5, 0},
	}
}

func connectionFaults() []faultRow {
	return []faultRow{
		{"a reset before every third answer is got over", fixed(everyThird(reset(""))), nil, trip.both, nil, 40, 0},
		{"resets for ever are transient", fixed(reset("")), nil, trip.pull, storage.ErrTransient, 5, 0},
		{"a reset in the middle of a download goes on there", func(_ *testing.T, c cargo) hook {
			return to("GET", "/blobs/"+blobOf(c.layer).Digest.String(), serveCut(c.layer, len(c.layer)/2+1, true))
		}, nil, trip.pull, nil, 6, 0},
		{"a reset in the middle of an upload begins it anew", fixed(times(2, to("PUT", "/blobs/uploads/", swallow))), nil, trip.both, nil, 20, 0},
		{"resets in the middle of every upload are transient", fixed(to("PUT", "/blobs/uploads/", swallow)), nil, trip.push, storage.ErrTransient, 20, 0},
		{"a reset in the middle of a manifest is got over", fixed(times(1, to("PUT", "/manifests/", swallow))), nil, trip.both, nil, 20, 0},
		{"a download that stalls ends", fixed(to("GET", "/blobs/", stalls)), nil, trip.pull, storage.ErrTransient, 12, 400 * time.Millisecond},
		{"an answer that never comes ends", fixed(to("HEAD", "/manifests/", silence)), nil, trip.pull, storage.ErrTransient, 5, 400 * time.Millisecond},
		{"a download that is slow, but moves, arrives", func(_ *testing.T, c cargo) hook {
			return to("GET", "/blobs/"+blobOf(c.layer).Digest.String(), drip(c.layer, 12, 100*time.Millisecond))
		}, nil, trip.pull, nil, 4, time.Second},
		{"a download cut short with a length to match goes on", func(_ *testing.T, c cargo) hook {
			return to("GET", "/blobs/sha256:", func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") != "" || !strings.Contains(r.URL.Path, blobOf(c.layer).Digest.Encoded()) {
					return false
				}
				_, _ = w.Write(half(c.layer))
				return true
			})
		}, nil, trip.pull, nil, 8, 0},
	}
}

func contentFaults() []faultRow {
	return []faultRow{
		{"a manifest cut short with a length to match is corrupt", nil, bend("/manifests/", half), trip.pull, storage.ErrCorrupt, 3, 0},
		{"a layer that is shorter than its manifest says is corrupt", func(_ *testing.T, c cargo) hook {
			return to("GET", "/blobs/"+blobOf(c.layer).Digest.String(), func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") != "" {
					return status(http.StatusRequestedRangeNotSatisfiable)(w, r)
				}
				_, _ = w.Write(half(c.layer))
				return true
			})
		}, nil, trip.pull, storage.ErrCorrupt, 4, 0},
		{"one wrong bit of a layer is corrupt", nil, bend("/blobs/", flipped), trip.pull, storage.ErrCorrupt, 3, 0},
		{"one wrong bit of a manifest is corrupt", nil, bend("/manifests/", flipped), trip.pull, storage.ErrCorrupt, 3, 0},
		{"a manifest of gzip that nobody has asked for is corrupt", nil, both(bend("/manifests/", zipped), with("GET", "/manifests/", "Content-Encoding", "gzip")), trip.pull, storage.ErrCorrupt, 3, 0},
		{"a layer of gzip that nobody has asked for is corrupt", nil, both(bend("/blobs/", zipped), with("GET", "/blobs/", "Content-Encoding", "gzip")), trip.pull, storage.ErrCorrupt, 3, 0},
		{"a page for every address is corrupt", fixed(answer("GET", 200, map[string]string{"Content-Type": "text/html"}, "<html>Log in</html>")), nil, trip.pull, storage.ErrCorrupt, 3, 0},
		{"JSON that ends too early is corrupt", fixed(to("GET", "/manifests/", answer("", 200, nil, `{"schemaVersion":2,`))), nil, trip.pull, storage.ErrCorrupt, 3, 0},
		{"a manifest without end is too large", func(t *testing.T, _ cargo) hook { return to("GET", "/manifests/", endless(t, 200)) }, nil, trip.pull, storage.ErrTooLarge, 2, 0},
		{"a layer without end is corrupt", func(t *testing.T, _ cargo) hook { return to("GET", "/blobs/", endless(t, 200)) }, nil, trip.pull, storage.ErrCorrupt, 3, 0},
		{"an error without end is cut", func(t *testing.T, _ cargo) hook { return to("GET", "", endless(t, 403)) }, nil, trip.pull, storage.ErrDenied, 2, 0},
		{"a length that is never reached is transient", fixed(to("GET", "/manifests/", status(200, "Content-Length", "5000"))), nil, trip.pull, storage.ErrTransient, 6, 0},
	}
}

func headerFaults() []faultRow {
	wrong := blobOf([]byte("something else")).Digest.String()
	return []faultRow{
		{"answers without Docker-Content-Digest do", nil, without("Docker-Content-Digest"), trip.both, nil, 20, 0},
		{"answers without Content-Type do", nil, without("Content-Type"), trip.both, nil, 20, 0},
		{"manifests of an odd Content-Type do", nil, with("GET", "/manifests/", "Content-Type", "text/plain; charset=utf-8"), trip.both, nil, 20, 0},
		{"a GET whose Docker-Content-Digest is another is corrupt", nil, with("GET", "/manifests/", "Docker-Content-Digest", wrong), trip.pull, storage.ErrCorrupt, 3, 0},
		{"a PUT that says it has stored something else is corrupt", nil, with("PUT", "/manifests/", "Docker-Content-Digest", wrong), trip.push, storage.ErrCorrupt, 6, 0},
		{"an upload that says it has stored something else is corrupt", nil, with("PUT", "/blobs/uploads/", "Docker-Content-Digest", wrong), trip.push, storage.ErrCorrupt, 2, 0},
		{"a HEAD that names another digest than it was asked for is not believed", nil, with("HEAD", "/manifests/", "Docker-Content-Digest", wrong), trip.resolve, nil, 2, 0},
		{"a HEAD that denies a blob has it sent again", fixed(to("HEAD", "/blobs/", status(404))), nil, trip.large, nil, 20, 0},
		{"a HEAD with another size has the blob sent", fixed(to("HEAD", "/blobs/", status(200, "Content-Length", "7"))), nil, trip.both, nil, 20, 0},
		{"a HEAD that claims a blob that is not there ends at the manifest", fixed(to("HEAD", "/blobs/", status(200, "Content-Length", fmt.Sprint(largeCargo)))), nil, trip.large, storage.ErrInvalid, 8, 0},
		{"a HEAD that finds a manifest that GET does not is not found", fixed(to("GET", "/manifests/", status(404))), nil, trip.pull, storage.ErrNotFound, 2, 0},
	}
}

func uploadFaults() []faultRow {
	elsewhere := func(u *url.URL) string { return "/moved" + u.RequestURI() }
	return []faultRow{
		{"uploads that go on at a path", nil, locations((*url.URL).RequestURI), trip.both, nil, 12, 0},
		{"uploads that go on at an address", nil, locations((*url.URL).String), trip.both, nil, 12, 0},
		{"uploads whose address has a query that must stay as it is", fixed(strict("a=1%2B2&b=%7E")), locations(func(u *url.URL) string {
			return u.Path + "?a=1%2B2&b=%7E&" + u.RawQuery
		}), trip.both, nil, 12, 0},
		{"uploads that go on nowhere are refused", nil, without("Location"), trip.push, storage.ErrInvalid, 1, 0},
		{"uploads that go on at plain HTTP elsewhere are refused", nil, locations(func(*url.URL) string { return "http://192.0.2.1/x" }), trip.push, storage.ErrInvalid, 1, 0},
		{"uploads that go on where nothing is end", fixed(to("PUT", "/moved", status(404))), locations(elsewhere), trip.push, storage.ErrNotFound, 6, 0},
		{"a registry that takes no PATCH gets blobs whole", fixed(to("PATCH", "", status(405))), nil, trip.both, nil, 12, 0},
		{"a registry that takes no whole blob gets it in chunks", fixed(whole(405)), nil, trip.both, nil, 20, 0},
		{"a proxy that takes no whole blob (415) has it sent in chunks", fixed(whole(415)), nil, trip.both, nil, 20, 0},
		{"a registry that takes neither names the first cause", fixed(func(w http.ResponseWriter, r *http.Request) bool {
			return whole(405)(w, r) || to("PATCH", "", status(400))(w, r)
		}), nil, trip.push, storage.ErrUnsupported, 6, 0},
		{"a failure between two chunks begins the upload anew", fixed(func() hook {
			failing := times(1, to("PATCH", "", status(502)))
			return func(w http.ResponseWriter, r *http.Request) bool { return whole(405)(w, r) || failing(w, r) }
		}()), nil, trip.both, nil, 30, 0},
		{"507 is a full disk", fixed(to("PUT", "/blobs/uploads/", status(507))), nil, trip.push, storage.ErrFull, 2, 0},
	}
}

func nameFaults() []faultRow {
	var out []faultRow
	for _, n := range []int{400, 403, 409, 412} {
		refuse := fixed(to("PUT", "/manifests/"+cargoTag, status(n)))
		out = append(out,
			faultRow{fmt.Sprintf("an immutable tag (%d) that names the same manifest is success", n), refuse, nil, trip.again, nil, 10, 0},
			faultRow{fmt.Sprintf("an immutable tag (%d) that names another one exists", n), refuse, nil, trip.push, storage.ErrExists, 10, 0})
	}
	return out
}

// trip is an image that is there under its tag, another one that is not, and the
// way through the front.
type trip struct {
	t        *testing.T
	front    *front
	s        *Storage
	old, new cargo
}

// pull reads what is there.
func (p trip) pull() error { return p.old.pull(p.t, p.s) }

// again publishes what is there.
func (p trip) again() error { return p.old.push(p.t, p.s) }

// push publishes what is not there.
func (p trip) push() error { return p.new.push(p.t, p.s) }

// both pushes and pulls.
func (p trip) both() error {
	if err := p.new.push(p.t, p.s); err != nil {
		return err
	}
	return p.new.pull(p.t, p.s)
}

// large pushes a layer that is asked for first, and then the new image.
func (p trip) large() error {
	large := newCargo(p.t, 77, largeCargo)
	if err := large.push(p.t, p.s); err != nil {
		return err
	}
	if err := large.pull(p.t, p.s); err != nil {
		return err
	}
	return p.push()
}

// resolve asks for what has a digest.
func (p trip) resolve() error {
	want := p.old.manifest.Descriptor.Digest
	d, err := p.s.Resolve(p.t.Context(), want.String())
	if err == nil && d.Digest != want {
		return errWrongImage
	}
	return err
}

// stalls sends the head of an answer and a byte, and nothing more.
func stalls(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Content-Length", fmt.Sprint(smallCargo))
	_, _ = w.Write([]byte{0})
	w.(http.Flusher).Flush()
	return silence(w, r)
}

func silence(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// whole refuses blobs that come in one piece.
func whole(code int) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/") && r.ContentLength > 0 && status(code)(w, r)
	}
}

// strict refuses to go on with an upload whose query does not begin as it was given.
func strict(query string) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		goesOn := (r.Method == http.MethodPut || r.Method == http.MethodPatch) && strings.Contains(r.URL.Path, "/blobs/uploads/")
		return goesOn && !strings.HasPrefix(r.URL.RawQuery, query+"&") && status(400)(w, r)
	}
}

func both(a, b func(*http.Response) error) func(*http.Response) error {
	return func(r *http.Response) error {
		if err := a(r); err != nil {
			return err
		}
		return b(r)
	}
}

func mountFaults() []faultRow {
	mounts := func(h hook) func(*testing.T, cargo) hook {
		return fixed(to("POST", "", func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Query().Has("mount") && h(w, r) }))
	}
	return []faultRow{
		{"a mount that is taken moves no bytes", fixed(to("PUT", "/blobs/uploads/", status(500))), nil, trip.mount, nil, 4, 0},
		{"a mount that is answered with an upload (202) becomes one", nil, nil, trip.mountNothing, nil, 8, 0},
		{"a mount that is denied (403) becomes an upload", mounts(status(403)), nil, trip.mount, nil, 8, 0},
		{"a mount that is not allowed (405) becomes an upload", mounts(status(405)), nil, trip.mount, nil, 8, 0},
		{"a mount of an unknown repository (404) becomes an upload", mounts(status(404)), nil, trip.mount, nil, 8, 0},
		{"a mount that says it is done and is not ends at the manifest", mounts(status(201)), nil, trip.mountNothing, storage.ErrInvalid, 6, 0},
	}
}

// mount publishes the new image with parts that a neighbour has.
func (p trip) mount() error { return p.mountFrom("faults/neighbour") }

// mountNothing does so with a neighbour that has nothing.
func (p trip) mountNothing() error { return p.mountFrom("faults/empty") }

func (p trip) mountFrom(repository string) error {
	for _, b := range [][]byte{p.new.layer, p.new.config} {
		mounted, err := p.s.MountBlob(p.t.Context(), blobOf(b), p.front.address(repository))
		if err == nil && !mounted {
			err = p.s.PushBlob(p.t.Context(), blobOf(b), content(b))
		}
		if err != nil {
			return err
		}
	}
	return p.s.Publish(p.t.Context(), cargoTag, p.new.manifest)
}

func redirectFaults() []faultRow {
	return []faultRow{
		{"blobs from an object storage arrive", func(t *testing.T, c cargo) hook { return newBucket(t, 0, c).redirect() }, nil, trip.pull, nil, 4, 0},
		{"credentials for the registry do not follow to an object storage", func(t *testing.T, c cargo) hook {
			tokens, objects := newGuard(t, 100).check, newBucket(t, 0, c).redirect()
			return func(w http.ResponseWriter, r *http.Request) bool { return tokens(w, r) || objects(w, r) }
		}, nil, trip.pull, nil, 5, 0},
		{"an address whose signature has expired is asked for anew", func(t *testing.T, c cargo) hook { return newBucket(t, 1, c).redirect() }, nil, trip.pull, nil, 5, 0},
		{"signatures that are never right are denied", func(t *testing.T, c cargo) hook { return newBucket(t, 1000, c).redirect() }, nil, trip.pull, storage.ErrDenied, 4, 0},
		{"redirects to nowhere are refused", fixed(to("GET", "/blobs/", status(307))), nil, trip.pull, storage.ErrInvalid, 3, 0},
		{"redirects in circles end", fixed(to("GET", "/blobs/", func(w http.ResponseWriter, r *http.Request) bool {
			return status(307, "Location", r.URL.Path)(w, r)
		})), nil, trip.pull, storage.ErrInvalid, 7, 0},
	}
}

func TestTheFaultTable(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	rows := [][]faultRow{authFaults(), statusFaults(), connectionFaults(), contentFaults(), headerFaults(), uploadFaults(), nameFaults(), mountFaults(), redirectFaults()}
	neighbour := newStorage(t, server.Address()+"/faults/neighbour", (&recorder{}).options())
	if err := newCargo(t, 2, smallCargo).push(t, neighbour); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, group := range rows {
		for _, row := range group {
			n++
			repo := fmt.Sprintf("faults/row-%d", n)
			t.Run(row.name, func(t *testing.T) { row.run(t, server, repo) })
		}
	}
}

// run has an image there before the fault begins, and looks at the end that the
// tag names that one or the new one, whole.
func (row faultRow) run(t *testing.T, server *testbed.Registry, repo string) {
	f := newFront(t, server)
	o := (&recorder{}).options()
	clean := newStorage(t, server.Address()+"/"+repo, o)
	p := trip{t: t, front: f, old: newCargo(t, 1, smallCargo), new: newCargo(t, 2, smallCargo)}
	if err := p.old.push(t, clean); err != nil {
		t.Fatal(err)
	}
	if d := row.silence; d > 0 {
		o.Timeouts = Timeouts{Connect: d, Answer: d, Idle: d}
	} else {
		o.Timeouts = Timeouts{Connect: 20 * time.Second, Answer: 20 * time.Second, Idle: 20 * time.Second}
	}
	o.Keychain = credentials{Username: "ann", Password: "s3cret-pass"}
	p.s = newStorage(t, f.address(repo), o)
	if row.hook != nil {
		f.fault(row.hook(t, p.old))
	}
	f.change = row.change
	err := row.do(p)
	wantClass(t, err, row.class)
	if got := f.sent(); got > row.most {
		t.Errorf("%d requests were sent, at most %d do: %s", got, row.most, f.requests())
	}
	if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "sig-")) {
		t.Errorf("the error shows a secret: %v", err)
	}
	if err := p.old.pull(t, clean); err != nil && p.new.pull(t, clean) != nil {
		t.Errorf("the registry holds another image: %v", err)
	}
}
