package storagetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/readonly"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options() storagetest.Options {
	return storagetest.Options{Run: "r1", Now: func() time.Time { return time.Time{} }}
}

func TestChecksAreDescribed(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, c := range storagetest.Checks() {
		if !name.MatchString(c.Name) || seen[c.Name] || c.Why == "" || c.Run == nil {
			t.Errorf("check %q (%q) is not unique or not described", c.Name, c.Why)
		}
		seen[c.Name] = true
	}
}

func TestCheckAllPassesAndLeavesNoNames(t *testing.T) {
	s := mem.New(mem.Options{})
	var notes []string
	for r := range storagetest.CheckAll(t.Context(), s, options()) {
		if r.Outcome == storagetest.Failed || len(r.Leftovers) > 0 {
			t.Errorf("%s: %v, left %q", r.Name, r.Err, r.Leftovers)
		}
		notes = append(notes, r.Notes...)
	}
	for tag := range s.Tags(t.Context()) {
		t.Errorf("left tag %s", tag)
	}
	want := []string{"manifests with missing layers are refused", "tags can be moved: the last write wins"}
	if !slices.Equal(notes, want) {
		t.Errorf("notes %q, want %q", notes, want)
	}
}

func TestCheckAllRunsTheSelectedAndStopsWithItsContext(t *testing.T) {
	opts := options()
	opts.Select = func(c storagetest.Check) bool { return strings.HasPrefix(c.Name, "blob-") }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for r := range storagetest.CheckAll(ctx, mem.New(mem.Options{}), opts) {
		if n++; !strings.HasPrefix(r.Name, "blob-") {
			t.Errorf("%s was not selected", r.Name)
		}
		if n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("%d checks ran, want 3", n)
	}
}

func TestLeftoversAreNamed(t *testing.T) {
	// A storage that takes everything and deletes nothing.
	s := keeper{mem.New(mem.Options{}), readonly.New(mem.New(mem.Options{}))}
	opts := options()
	opts.Select = func(c storagetest.Check) bool { return c.Name == "tag-published" }
	for r := range storagetest.CheckAll(t.Context(), s, opts) {
		if r.Outcome != storagetest.Passed || len(r.Leftovers) != 2 {
			t.Errorf("%s %v, leftovers %q; want a tag and a manifest", r.Outcome, r.Err, r.Leftovers)
		}
	}
}

type keeper struct {
	storage.Storage
	deleter storage.Deleter
}

func (k keeper) DeleteTag(ctx context.Context, tag string) error {
	return k.deleter.DeleteTag(ctx, tag)
}

func (k keeper) DeleteManifest(ctx context.Context, d digest.Digest) error {
	return k.deleter.DeleteManifest(ctx, d)
}

// Storages with one defect each. The checks must see every one.
type (
	deaf       struct{ storage.Storage } // to its context
	credulous  struct{ storage.Storage } // of digests
	vague      struct{ storage.Storage } // about what is not there
	forgetful  struct{ storage.Storage } // of media types
	reencoding struct{ storage.Storage } // manifests
	impatient  struct{ storage.Storage } // reads content twice, closes it never
	careless   struct{ storage.Storage } // with names
)

func (s deaf) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	return s.Storage.PushBlob(context.WithoutCancel(ctx), d, c)
}

func (s credulous) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	r, err := c.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return s.Storage.PushBlob(ctx, storagetest.Layer(b), storagetest.Content(b))
}

var errVague = errors.New("no")

func (s vague) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	d, err := s.Storage.Resolve(ctx, ref)
	if err != nil {
		err = errVague
	}
	return d, err
}

func (s forgetful) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, err := s.Storage.Manifest(ctx, ref)
	m.Descriptor.MediaType = ocispec.MediaTypeImageManifest
	return m, err
}

func (s reencoding) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	m.Bytes = bytes.TrimSpace(m.Bytes)
	m.Descriptor.Digest, m.Descriptor.Size = digest.FromBytes(m.Bytes), int64(len(m.Bytes))
	return s.Storage.Publish(ctx, tag, m)
}

func (s impatient) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	return s.Storage.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) {
		r, err := c.Open()
		if err != nil {
			return nil, err
		}
		return io.NopCloser(r), nil
	}))
}

func (s careless) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	if storage.CheckTag(tag) != nil {
		tag = "fallback"
	}
	return s.Storage.Publish(ctx, strings.ToLower(tag), m)
}

func TestChecksSeeDefects(t *testing.T) {
	good := func() storage.Storage { return mem.New(mem.Options{}) }
	bad := func(script faulty.Script) storage.Storage { return faulty.New(good(), script) }
	for name, c := range map[string]struct {
		s    storage.Storage
		fail []string
	}{
		"deaf to contexts":          {deaf{good()}, []string{"cancelled-before", "cancelled-while-pushing"}},
		"credulous":                 {credulous{good()}, []string{"blob-with-wrong-digest", "blob-with-wrong-size"}},
		"vague about misses":        {vague{good()}, []string{"manifest-that-is-absent", "read-after-write"}},
		"forgetful of media types":  {forgetful{good()}, []string{"manifest-media-types", "index-of-images"}},
		"encoding anew":             {reencoding{good()}, []string{"manifest-bit-exact"}},
		"never closing content":     {impatient{good()}, []string{"blob-content-reopened"}},
		"careless with names":       {careless{good()}, []string{"tag-malformed", "tag-of-128-characters"}},
		"listing one page":          {bad(faulty.Always(faulty.ListTags, faulty.Fault{After: 100})), []string{"tags-over-several-pages"}},
		"reading late":              {bad(faulty.Always(faulty.Resolve, faulty.Fault{Stale: true})), []string{"read-after-write", "tag-published"}},
		"denying what is the same":  {bad(faulty.On(faulty.Publish, 2, faulty.Fault{Err: storage.ErrExists})), []string{"tag-published-twice"}},
		"cutting blobs":             {bad(faulty.Always(faulty.FetchBlob, faulty.Fault{After: 4096})), []string{"blob-at-chunk-boundaries"}},
		"not taking empty contents": {bad(faulty.On(faulty.PushBlob, 1, faulty.Fault{Err: storage.ErrInvalid})), []string{"blob-empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, want := range c.fail {
				opts := options()
				opts.Select = func(c storagetest.Check) bool { return c.Name == want }
				n := 0
				for r := range storagetest.CheckAll(t.Context(), c.s, opts) {
					if n++; r.Outcome != storagetest.Failed {
						t.Errorf("%s: %s", want, r.Outcome)
					}
				}
				if n != 1 {
					t.Errorf("there is no check %s", want)
				}
			}
		})
	}
}
