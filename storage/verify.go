package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// VerifyReader returns a reader of r's bytes that fails with [ErrCorrupt] unless
// they are exactly d.Size bytes with digest d.Digest. It never hands out more
// than d.Size bytes, and the last of them only when the digest is right, so that
// also a caller who counts and does not wait for [io.EOF] is protected. An
// unusable d gives [ErrInvalid]. Closing closes r.
//
// A reader that says to do all this itself, see [Verifying], is returned as it is:
// content is hashed once on its way, however many hands it goes through.
func VerifyReader(r io.ReadCloser, d ocispec.Descriptor) io.ReadCloser {
	if Verifies(r, d) {
		return r
	}
	v := &verifier{r: r, want: d, left: d.Size}
	if err := checkDescriptor(d); err != nil {
		v.err = err
		return v
	}
	v.hash = d.Digest.Algorithm().Hash()
	return v
}

// Verifying is a reader that may verify what it hands out. What wraps one and
// passes its bytes on unchanged may pass this on too; what changes bytes, or may
// harm them, must not have it.
type Verifying interface {
	// Verifies reports whether reading on from here keeps the promises of
	// [VerifyReader] for all of d.
	Verifies(d ocispec.Descriptor) bool
}

// Verifies reports whether r says that it keeps the promises of [VerifyReader] for d.
func Verifies(r io.Reader, d ocispec.Descriptor) bool {
	v, ok := r.(Verifying)
	return ok && v.Verifies(d)
}

// checkDescriptor reports whether d can name content at all.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: digest %q: %w", ErrInvalid, d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: size %d of %s", ErrInvalid, d.Size, d.Digest)
	}
	return nil
}

type verifier struct {
	r    io.ReadCloser
	want ocispec.Descriptor
	hash hash.Hash
	left int64
	// err is what every further Read returns.
	err error
}

// Verifies implements [Verifying]. Of what was partly read, the whole cannot come any more.
func (v *verifier) Verifies(d ocispec.Descriptor) bool {
	return v.err == nil && v.left == v.want.Size && d.Digest == v.want.Digest && d.Size == v.want.Size
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if v.left == 0 {
		v.err = v.end()
		return 0, v.err
	}
	if int64(len(p)) > v.left {
		p = p[:v.left]
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n]) // never fails
	v.left -= int64(n)
	if v.left == 0 {
		if v.err = v.check(); v.err != nil {
			return 0, v.err
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s ends %d of %d bytes early: %w", ErrCorrupt, v.want.Digest, v.left, v.want.Size, io.ErrUnexpectedEOF)
	}
	v.err = err
	return n, err
}

// end is called when all bytes that belong to the content have been read: only
// the end of the stream may follow.
func (v *verifier) end() error {
	if err := v.check(); err != nil {
		return err
	}
	var more [1]byte
	n, err := io.ReadFull(v.r, more[:])
	if n > 0 {
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrCorrupt, v.want.Digest, v.want.Size)
	}
	return err
}

func (v *verifier) check() error {
	if got := digest.NewDigest(v.want.Digest.Algorithm(), v.hash); got != v.want.Digest {
		return fmt.Errorf("%w: %s has the bytes of %s", ErrCorrupt, v.want.Digest, got)
	}
	return nil
}

func (v *verifier) Close() error { return v.r.Close() }

// ReadBlob returns the verified bytes of d, from d.Data when they are there and
// right, else from f. A blob of more than limit bytes gives [ErrTooLarge] and
// nothing is read.
func ReadBlob(ctx context.Context, f Fetcher, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are read", ErrTooLarge, d.Digest, d.Size, limit)
	}
	if len(d.Data) > 0 && int64(len(d.Data)) == d.Size && d.Digest.Algorithm().FromBytes(d.Data) == d.Digest {
		return bytes.Clone(d.Data), nil
	}
	r, err := f.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	// A decorator between f and the implementation may have harmed the bytes.
	b, err := io.ReadAll(VerifyReader(r, d))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return b, nil
}

// Verify reports whether m.Bytes are what m.Descriptor says: [ErrTooLarge] beyond
// [MaxManifest], [ErrCorrupt] for another digest or size, [ErrInvalid] for a
// descriptor that cannot be right.
func (m Manifest) Verify() error {
	d := m.Descriptor
	if err := checkDescriptor(d); err != nil {
		return err
	}
	if len(m.Bytes) > MaxManifest {
		return fmt.Errorf("%w: manifest %s has %d bytes, at most %d are allowed", ErrTooLarge, d.Digest, len(m.Bytes), MaxManifest)
	}
	if int64(len(m.Bytes)) != d.Size {
		return fmt.Errorf("%w: manifest %s has %d bytes instead of %d", ErrCorrupt, d.Digest, len(m.Bytes), d.Size)
	}
	if got := d.Digest.Algorithm().FromBytes(m.Bytes); got != d.Digest {
		return fmt.Errorf("%w: manifest %s has the bytes of %s", ErrCorrupt, d.Digest, got)
	}
	return nil
}
