package near

import (
	"context"
	"errors"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// errAbandoned ends the keeping of a blob that is not read to its end.
var errAbandoned = errors.New("the blob was not read to its end")

// keeper passes a blob on and has the cache keep a copy. The cache never stops the
// reader: where it fails, reading goes on without it.
type keeper struct {
	io.ReadCloser
	d     ocispec.Descriptor
	read  int64
	to    *io.PipeWriter
	ended sync.Once
	done  chan struct{} // closed when the cache has ended
	kept  func()
	asked bool  // the cache has opened it; as err
	err   error // of the cache; to be read when done is closed
}

// keep returns a reader of r that fills the cache.
func (n *Near) keep(ctx context.Context, cache Cache, d ocispec.Descriptor, r io.ReadCloser) io.ReadCloser {
	from, to := io.Pipe()
	k := &keeper{ReadCloser: r, d: d, to: to, done: make(chan struct{})}
	k.kept = func() {
		switch {
		case k.err == nil && k.asked:
			n.isWhole(d)
		case k.err == nil: // somebody else has kept it meanwhile
		case !errors.Is(k.err, errAbandoned) && !errors.Is(k.err, errRead):
			n.cacheFailed(ctx, k.err)
		}
	}
	go func() { // ends with the pipe, for which end waits
		defer close(k.done)
		k.err = cache.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) {
			k.asked = true
			return io.NopCloser(from), nil
		}))
		// Where the cache wants no more, the reader must not wait for it.
		_ = from.CloseWithError(errAbandoned)
	}()
	return k
}

// errRead marks that the storage, and not the cache, is why a blob is not kept.
var errRead = errors.New("the storage failed")

// Read implements [io.Reader].
func (k *keeper) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	k.read += int64(n)
	if n > 0 {
		// A cache that has failed refuses all further writes at once.
		_, _ = k.to.Write(p[:n])
	}
	if errors.Is(err, io.EOF) {
		k.end(nil) // the storage has checked what it gave
	} else if err != nil {
		k.end(errRead)
	}
	return n, err
}

// end has the cache keep what it got, or drop it, and waits for it.
func (k *keeper) end(cause error) {
	k.ended.Do(func() {
		_ = k.to.CloseWithError(cause)
		<-k.done
		k.kept()
	})
}

// Close implements [io.Closer]. Readers that know the size stop before they see the end.
func (k *keeper) Close() error {
	if k.read == k.d.Size {
		_, _ = k.Read(make([]byte, 1)) // what it says the reader did not ask for
	}
	k.end(errAbandoned)
	return k.ReadCloser.Close()
}
