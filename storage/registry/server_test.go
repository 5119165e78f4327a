package registry

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage"
)

// requestsOf returns the methods in the server's log since the last call,
// those that were refused for want of credentials apart.
func requestsOf(t *testing.T, r *testbed.Registry) []string {
	t.Helper()
	got, err := r.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, q := range got {
		if q.Status != http.StatusUnauthorized {
			out = append(out, q.Method)
		}
	}
	return out
}

func TestEveryOperationSendsAsFewRequestsAsItCan(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	rec := &recorder{}
	client := newClient(t, rec.options())
	s, err := client.Open(server.Address() + "/shop/stages")
	if err != nil {
		t.Fatal(err)
	}
	neighbour, err := client.Open(server.Address() + "/base/image")
	if err != nil {
		t.Fatal(err)
	}
	small, large := noise(1, 1000), noise(2, smallBlob+1)
	m := pushImage(t, s, 3)
	other := pushImage(t, neighbour, 4)
	layers, err := other.Image()
	if err != nil {
		t.Fatal(err)
	}
	requestsOf(t, server)
	before := len(rec.exchanges)

	var all []string
	steps := []struct {
		name, want string
		do         func() error
	}{
		{"a small blob is sent without a question", "POST PUT", func() error { return s.PushBlob(t.Context(), blobOf(small), content(small)) }},
		{"a large one is asked for first", "HEAD POST PUT", func() error { return s.PushBlob(t.Context(), blobOf(large), content(large)) }},
		{"a large one that is there is not sent", "HEAD", func() error { return s.PushBlob(t.Context(), blobOf(large), content(large)) }},
		{"a blob is looked for by a HEAD", "HEAD", func() error { return truth(s.HasBlob(t.Context(), blobOf(small))) }},
		{"a blob is read by a GET", "GET", func() error { _, err := read(t, s, blobOf(small)); return err }},
		{"a mount is a POST", "POST", func() error { return truth(s.MountBlob(t.Context(), layers.Layers[0], neighbour.Address())) }},
		{"a manifest by digest is a PUT", "PUT", func() error { return s.PushManifest(t.Context(), m) }},
		{"a tag is a PUT", "PUT", func() error { return s.Publish(t.Context(), "one", m) }},
		{"a name is resolved by a HEAD", "HEAD", func() error { _, err := s.Resolve(t.Context(), "one"); return err }},
		{"a name that is not there costs as much", "HEAD", func() error { return is(storage.ErrNotFound)(s.Resolve(t.Context(), "two")) }},
		{"a manifest is fetched by a GET", "GET", func() error { _, err := s.Manifest(t.Context(), "one"); return err }},
		{"tags of one page are a GET", "GET", func() error {
			for _, err := range s.Tags(t.Context()) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"the first deletion of a tag finds out how, and that the registry cannot", "DELETE PUT PUT DELETE DELETE HEAD", func() error {
			return is(storage.ErrNotFound)(0, s.DeleteTag(t.Context(), "two"))
		}},
		{"a tag is put on the tomb, which is then deleted", "HEAD PUT PUT DELETE", func() error { return s.DeleteTag(t.Context(), "one") }},
		{"a manifest is deleted by a DELETE", "DELETE", func() error { return s.DeleteManifest(t.Context(), m.Descriptor.Digest) }},
		{"another registry's blobs are not mounted", "", func() error {
			ok, err := s.MountBlob(t.Context(), layers.Layers[0], "other.example.com/base/image")
			if ok {
				return errors.New("it says that it was mounted")
			}
			return err
		}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		got := requestsOf(t, server)
		if strings.Join(got, " ") != step.want {
			t.Errorf("%s: sent %v, want %s", step.name, got, step.want)
		}
		all = append(all, got...)
	}
	var observed []string
	for _, e := range rec.exchanges[before:] {
		if e.Kind == KindRegistry {
			observed = append(observed, e.Method)
		}
	}
	if !slices.Equal(observed, all) {
		t.Errorf("observed %v, and the server has logged %v", observed, all)
	}
}

func truth(ok bool, err error) error {
	if err == nil && !ok {
		return errors.New("got false, want true")
	}
	return err
}

func is(class error) func(any, error) error {
	return func(_ any, err error) error {
		if errors.Is(err, class) {
			return nil
		}
		return errors.Join(errors.New("want "+class.Error()), err)
	}
}

func TestBytesAreObserved(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	rec := &recorder{}
	s := newStorage(t, server.Address()+"/shop/stages", rec.options())
	b := noise(1, 5000)
	if err := s.PushBlob(t.Context(), blobOf(b), content(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, s, blobOf(b)); err != nil {
		t.Fatal(err)
	}
	uploads, blob := "/v2/shop/stages/blobs/uploads/", "/v2/shop/stages/blobs/"+blobOf(b).Digest.String()
	want := []Exchange{
		{Host: server.Address(), Method: "POST", Kind: KindRegistry, Status: 202, Path: uploads},
		{Host: server.Address(), Method: "PUT", Kind: KindRegistry, Status: 201, Path: uploads, Sent: 5000},
		{Host: server.Address(), Method: "GET", Kind: KindRegistry, Status: 200, Path: blob, Received: 5000},
	}
	if !slices.Equal(rec.exchanges, want) {
		t.Errorf("observed %+v, want %+v", rec.exchanges, want)
	}
}

func TestARegistryWithPasswordsAndTLS(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{Users: map[string]string{"ann": "s3cret-pass"}, TLS: true})
	rec := &recorder{}
	o := rec.options()
	o.CAFile, o.Keychain = server.CAFile(), credentials{Username: "ann", Password: "s3cret-pass"}
	s := newStorage(t, server.Address()+"/shop/stages", o)

	m := pushImage(t, s, 1)
	wantClass(t, s.Publish(t.Context(), "one", m), nil)
	if d, err := s.Resolve(t.Context(), "one"); err != nil || d.Digest != m.Descriptor.Digest || d.Size != m.Descriptor.Size || d.MediaType != m.Descriptor.MediaType {
		t.Errorf("resolved %v, %v, want %v", d, err, m.Descriptor)
	}
	if got := rec.sent(KindAuth); len(got) != 1 {
		t.Errorf("%q needed credentials, want the first request only", got)
	}

	t.Run("a wrong password is unauthorized and not shown", func(t *testing.T) {
		o.Keychain = credentials{Username: "ann", Password: "wrong-pass"}
		_, err := newStorage(t, server.Address()+"/shop/stages", o).Resolve(t.Context(), "one")
		wantClass(t, err, storage.ErrUnauthorized)
		if strings.Contains(err.Error(), "wrong-pass") {
			t.Errorf("the error shows the password: %v", err)
		}
	})
	t.Run("no credentials are unauthorized with a hint", func(t *testing.T) {
		o.Keychain = anonymous{}
		_, err := newStorage(t, server.Address()+"/shop/stages", o).Manifest(t.Context(), "one")
		wantClass(t, err, storage.ErrUnauthorized)
		if !strings.Contains(err.Error(), "log in first") {
			t.Errorf("the error does not help: %v", err)
		}
	})
	t.Run("an unknown authority is refused at once", func(t *testing.T) {
		rec := &recorder{}
		_, err := newStorage(t, server.Address()+"/shop/stages", rec.options()).Resolve(t.Context(), "one")
		wantClass(t, err, storage.ErrInvalid)
		if len(rec.slept()) != 0 || len(rec.exchanges) != 0 {
			t.Errorf("slept %v and sent %v", rec.slept(), rec.exchanges)
		}
	})
}

func TestMissingPartsOfAManifestAreExplained(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	s := newStorage(t, server.Address()+"/shop/stages", (&recorder{}).options())
	elsewhere := newStorage(t, server.Address()+"/another", (&recorder{}).options())
	err := s.PushManifest(t.Context(), pushImage(t, elsewhere, 1))
	wantClass(t, err, storage.ErrInvalid)
	if !strings.Contains(err.Error(), "lacks a blob") {
		t.Errorf("the error does not explain: %v", err)
	}
}

func TestARegistryThatIsAwayIsTransientAfterAllAttempts(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	rec := &recorder{}
	s := newStorage(t, server.Address()+"/shop/stages", rec.options())
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrTransient)
	if got := rec.slept(); len(got) != 4 || got[0] != 250e6 || got[3] != 2e9 {
		t.Errorf("slept %v, want four doubled delays", got)
	}
}

func TestAbsentThings(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	s := newStorage(t, server.Address()+"/shop/stages", (&recorder{}).options())
	absent := blobOf([]byte("absent"))
	_, err := s.Manifest(t.Context(), "absent")
	wantClass(t, err, storage.ErrNotFound)
	_, err = read(t, s, absent)
	wantClass(t, err, storage.ErrNotFound)
	wantClass(t, s.DeleteManifest(t.Context(), digest.FromString("absent")), storage.ErrNotFound)
	for tag, err := range s.Tags(t.Context()) {
		t.Errorf("a repository that is not there has %q, %v", tag, err)
	}
}
