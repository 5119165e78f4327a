package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func descriptor(s string) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(s), Size: int64(len(s))}
}

func TestVerifyReader(t *testing.T) {
	broken := errors.New("line broke")
	sized := func(s string, n int64) ocispec.Descriptor {
		d := descriptor(s)
		d.Size = n
		return d
	}
	for name, c := range map[string]struct {
		content io.Reader
		want    ocispec.Descriptor
		err     error
	}{
		"passes what is right":                            {strings.NewReader("hello"), descriptor("hello"), nil},
		"passes what comes byte by byte":                  {iotest.OneByteReader(strings.NewReader("hello")), descriptor("hello"), nil},
		"passes an end that comes with data":              {iotest.DataErrReader(strings.NewReader("hello")), descriptor("hello"), nil},
		"passes nothing for nothing":                      {strings.NewReader(""), descriptor(""), nil},
		"fails for other bytes":                           {strings.NewReader("hellO"), descriptor("hello"), storage.ErrCorrupt},
		"fails for too few bytes":                         {strings.NewReader("hell"), descriptor("hello"), storage.ErrCorrupt},
		"fails for too many bytes":                        {strings.NewReader("hello!"), descriptor("hello"), storage.ErrCorrupt},
		"fails for bytes where none belong":               {strings.NewReader("x"), descriptor(""), storage.ErrCorrupt},
		"fails for a size that is not that of the digest": {strings.NewReader(""), sized("hello", 0), storage.ErrCorrupt},
		"passes on an error of the source":                {io.MultiReader(strings.NewReader("he"), iotest.ErrReader(broken)), descriptor("hello"), broken},
		"refuses a negative size":                         {strings.NewReader("hello"), sized("hello", -1), storage.ErrInvalid},
		"refuses what is no digest":                       {strings.NewReader("hello"), ocispec.Descriptor{Digest: "sha256:5", Size: 5}, storage.ErrInvalid},
		"refuses an unknown algorithm":                    {strings.NewReader("hello"), ocispec.Descriptor{Digest: "md5:0123456789abcdef0123456789abcdef", Size: 5}, storage.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			r := storage.VerifyReader(io.NopCloser(c.content), c.want)
			b, err := io.ReadAll(r)
			if !errors.Is(err, c.err) || (c.err == nil && err != nil) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if err == nil && int64(len(b)) != c.want.Size {
				t.Errorf("%d bytes, want %d", len(b), c.want.Size)
			}
			if _, again := r.Read(make([]byte, 1)); err != nil && !errors.Is(again, c.err) {
				t.Errorf("the error is not kept: %v, then %v", err, again)
			}
		})
	}
}

func TestVerifyReaderProtectsACallerWhoOnlyCounts(t *testing.T) {
	r := storage.VerifyReader(io.NopCloser(strings.NewReader("hellO")), descriptor("hello"))
	if _, err := io.ReadFull(r, make([]byte, 5)); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("ReadFull: %v", err)
	}
}

// FuzzVerifyReader checks that content comes through when and only when it is right,
// however it is cut into reads.
func FuzzVerifyReader(f *testing.F) {
	f.Add([]byte("hello"), []byte("hello"), int64(5), 3)
	f.Add([]byte("hello"), []byte("hello!"), int64(5), 1)
	f.Add([]byte(""), []byte(""), int64(0), 1)
	f.Add([]byte("a"), []byte("b"), int64(1), 100)
	f.Add([]byte("abc"), []byte("ab"), int64(-1), 2)
	f.Fuzz(func(t *testing.T, wanted, sent []byte, size int64, piece int) {
		d := ocispec.Descriptor{Digest: digest.FromBytes(wanted), Size: size}
		r := storage.VerifyReader(io.NopCloser(bytes.NewReader(sent)), d)
		buf := make([]byte, 1+uint(piece)%4096)
		var got []byte
		var err error
		for err == nil {
			var n int
			n, err = r.Read(buf)
			got = append(got, buf[:n]...)
		}
		right := bytes.Equal(wanted, sent) && size == int64(len(sent))
		if right != (err == io.EOF) {
			t.Fatalf("right is %v, the reader ends with %v", right, err)
		}
		if int64(len(got)) > max(size, 0) || !bytes.HasPrefix(sent, got) {
			t.Fatalf("handed out %d bytes of %d", len(got), size)
		}
		if right && !bytes.Equal(got, wanted) {
			t.Fatalf("got %q, want %q", got, wanted)
		}
	})
}

// blobs is a [storage.Fetcher] that counts.
type blobs struct {
	storage.Fetcher
	content string
	asked   int
}

func (b *blobs) Blob(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	b.asked++
	return io.NopCloser(strings.NewReader(b.content)), nil
}

func TestReadBlob(t *testing.T) {
	inline := func(data string) ocispec.Descriptor {
		d := descriptor("hello")
		d.Data = []byte(data)
		return d
	}
	for name, c := range map[string]struct {
		d       ocispec.Descriptor
		limit   int64
		content string
		err     error
		asked   int
	}{
		"fetches":                            {descriptor("hello"), 5, "hello", nil, 1},
		"takes data in the descriptor":       {inline("hello"), 5, "never read", nil, 0},
		"fetches when that data is wrong":    {inline("hellO"), 5, "hello", nil, 1},
		"fetches when that data is cut":      {inline("hell"), 5, "hello", nil, 1},
		"does not read beyond the limit":     {descriptor("hello"), 4, "hello", storage.ErrTooLarge, 0},
		"does not believe a careless source": {descriptor("hello"), 5, "jello", storage.ErrCorrupt, 1},
		"refuses what is no digest":          {ocispec.Descriptor{}, 5, "", storage.ErrInvalid, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := &blobs{content: c.content}
			b, err := storage.ReadBlob(t.Context(), f, c.d, c.limit)
			if !errors.Is(err, c.err) || (err == nil && string(b) != "hello") {
				t.Errorf("%q, %v; want error %v", b, err, c.err)
			}
			if f.asked != c.asked {
				t.Errorf("asked %d times, want %d", f.asked, c.asked)
			}
		})
	}
}

func TestManifestVerify(t *testing.T) {
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(); err != nil {
		t.Error(err)
	}
	short, other := m, m
	short.Descriptor.Size--
	other.Descriptor.Digest = digest.FromString("other")
	large := storage.Manifest{Descriptor: ocispec.Descriptor{Digest: m.Descriptor.Digest}, Bytes: make([]byte, storage.MaxManifest+1)}
	for name, c := range map[string]struct {
		m     storage.Manifest
		class error
	}{
		"another size":   {short, storage.ErrCorrupt},
		"another digest": {other, storage.ErrCorrupt},
		"too large":      {large, storage.ErrTooLarge},
		"no digest":      {storage.Manifest{}, storage.ErrInvalid},
	} {
		if err := c.m.Verify(); !errors.Is(err, c.class) {
			t.Errorf("%s: %v, want %v", name, err, c.class)
		}
	}
}

func TestContentIsHashedOnceHoweverManyHandsItGoesThrough(t *testing.T) {
	d := descriptor("hello")
	first := storage.VerifyReader(io.NopCloser(strings.NewReader("hellO")), d)
	if again := storage.VerifyReader(first, d); again != first {
		t.Error("what is verified was given a further verification")
	}
	if other := storage.VerifyReader(first, descriptor("world")); other == first {
		t.Error("what is verified as something else was taken as it is")
	}
	if wrapped := storage.VerifyReader(struct{ io.ReadCloser }{first}, d); storage.Verifies(struct{ io.ReadCloser }{first}, d) || wrapped == first {
		t.Error("what wraps a reader without saying that it passes bytes on unchanged was trusted")
	}
	if _, err := io.ReadFull(first, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if storage.Verifies(first, d) {
		t.Error("a reader that has been read from promises the whole content")
	}
	if _, err := io.ReadAll(first); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("other bytes gave %v", err)
	}
	if storage.Verifies(first, d) {
		t.Error("a reader that has failed promises the content")
	}
}
