package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
)

// maxTarget bounds the target of a symbolic link, in bytes.
const maxTarget = 4096

// consumer takes the content of a file, whose size is in bytes.
type consumer = func(f File, size int64, r io.Reader) error

// Contents calls fn with the content of each file in order; a symbolic link's
// content is its target, and that of a file of Git LFS what its pointer names.
// What fn does not read is skipped. Contents are checked against their object
// ids, those of Git LFS against their pointers: an error that is found at the end
// of a file comes after its fn, so that only a call without error makes the bytes
// good.
//
// Errors: those of fn, [ErrLFSPointer], [ErrLFSMissing], [ErrSubmodule],
// [ErrCorrupt], [ErrChanged].
func (t *Tree) Contents(ctx context.Context, files []File, fn func(f File, size int64, r io.Reader) error) error {
	return t.each(ctx, "--batch", files, func(f File, o *origin, out *bufio.Reader) error {
		return o.content(ctx, f, out, fn)
	})
}

// Sizes returns the sizes of the files' contents in bytes, in order, without
// reading them.
func (t *Tree) Sizes(ctx context.Context, files []File) ([]int64, error) {
	sizes := make([]int64, 0, len(files))
	var small []int // those that can be pointers
	err := t.each(ctx, "--batch-check", files, func(f File, o *origin, out *bufio.Reader) error {
		d, ok := o.disk(f)
		size := d.size
		if !ok {
			var err error
			if size, err = batchHeader(out, f); err != nil {
				return err
			}
		}
		if f.LFS && d.oid == "" && size < lfsPointerMax {
			small = append(small, len(sizes))
		}
		sizes = append(sizes, size)
		return nil
	})
	if err != nil || len(small) == 0 {
		return sizes, err
	}
	return sizes, t.pointedSizes(ctx, files, small, sizes)
}

// pointedSizes corrects the sizes of those files that are pointers.
func (t *Tree) pointedSizes(ctx context.Context, files []File, small []int, sizes []int64) error {
	blobs := make([]File, len(small))
	for n, i := range small {
		blobs[n] = files[i]
		blobs[n].LFS = false // the blob itself is wanted
	}
	n := 0
	return t.Contents(ctx, blobs, func(_ File, _ int64, r io.Reader) error {
		i := small[n]
		n++
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		p, ok, err := pointed(files[i], b)
		if ok {
			sizes[i] = p.size
		}
		return err
	})
}

// originOf returns where a file's content is.
func (t *Tree) originOf(f File) *origin {
	if f.from != nil {
		return f.from
	}
	return t.files.origins[0]
}

// each calls fn for each file in order. Where git has the content, out begins
// with the answer of "git cat-file" in that mode; there is one such process for
// each repository that the files come from.
func (t *Tree) each(ctx context.Context, mode string, files []File, fn func(f File, o *origin, out *bufio.Reader) error) error {
	ask := make(map[*origin][]string)
	for _, f := range files {
		if f.Mode == ModeSubmodule {
			return submoduleError(f.label())
		}
		o := t.originOf(f)
		if _, ok := o.disk(f); !ok {
			ask[o] = append(ask[o], f.Object)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := make(map[*origin]*answers)
	failed, err := t.eachOf(ctx, mode, files, ask, running, fn)
	if err == nil {
		return nil
	}
	cancel()
	for _, a := range running {
		// They were cut off: what they say of that is of no interest.
		_ = a.wait(ctx)
	}
	if failed != nil {
		return corruptAnswer(err, failed.stderr)
	}
	return err
}

// eachOf is each without the end of what is running when it fails. It returns
// the answers that are to blame.
func (t *Tree) eachOf(ctx context.Context, mode string, files []File, ask map[*origin][]string, running map[*origin]*answers,
	fn func(File, *origin, *bufio.Reader) error,
) (*answers, error) {
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o := t.originOf(f)
		if _, ok := o.disk(f); ok {
			if err := fn(f, o, nil); err != nil {
				return nil, err
			}
			continue
		}
		a := running[o]
		if a == nil {
			var err error
			if a, err = o.ask(ctx, mode, ask[o]); err != nil {
				return nil, err
			}
			running[o] = a
		}
		if err := fn(f, o, a.out); err != nil {
			return a, err
		}
		if a.left--; a.left > 0 {
			continue
		}
		delete(running, o)
		if err := a.wait(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// corruptAnswer adds git's own words to an answer that ended early.
func corruptAnswer(err error, stderr *tail) error {
	var e *Error
	if text := stderr.String(); text != "" && errors.As(err, &e) && errors.Is(e.Class, ErrCorrupt) {
		return fmt.Errorf("%w (git: %s)", err, text)
	}
	return err
}

// batchHeader reads "<id> <type> <size>" and returns the size.
func batchHeader(out *bufio.Reader, f File) (int64, error) {
	line, err := out.ReadSlice('\n')
	if err != nil {
		return 0, corruptFile(f, fmt.Errorf("git ended without it: %w", err))
	}
	fields := strings.Fields(string(line))
	if len(fields) != 3 || fields[0] != f.Object {
		return 0, corruptFile(f, errors.New("the object is missing"))
	}
	if fields[1] != "blob" {
		return 0, corruptFile(f, fmt.Errorf("the object is a %s", fields[1]))
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return 0, corruptFile(f, fmt.Errorf("size %q", fields[2]))
	}
	return size, nil
}

func corruptFile(f File, err error) error {
	return &Error{
		Op: "read object", Subject: fmt.Sprintf("%s of %q", f.Object, f.label()), Class: ErrCorrupt, Err: err,
		Hint: "run git fsck; a fresh clone mends it",
	}
}

// content gives one file to fn, from git's answer or from the work tree.
func (o *origin) content(ctx context.Context, f File, out *bufio.Reader, fn consumer) error {
	if d, ok := o.disk(f); ok {
		return o.diskContent(ctx, f, d, fn)
	}
	size, err := batchHeader(out, f)
	if err != nil {
		return err
	}
	if err := o.blob(ctx, f, size, out, fn); err != nil {
		return err
	}
	if end, err := out.ReadByte(); err != nil || end != '\n' {
		return corruptFile(f, errors.New("git's answer has no end"))
	}
	return nil
}

// blob gives the next size bytes of r to fn, or what they point to.
func (o *origin) blob(ctx context.Context, f File, size int64, r io.Reader, fn consumer) error {
	if !f.LFS || size >= lfsPointerMax {
		return o.checked(f, size, r, fn)
	}
	var small []byte
	err := o.checked(f, size, r, func(_ File, _ int64, r io.Reader) (err error) {
		small, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return err
	}
	p, ok, err := pointed(f, small)
	switch {
	case err != nil:
		return err
	case ok:
		return o.lfsContent(ctx, f, p, fn)
	default:
		return fn(f, size, bytes.NewReader(small))
	}
}

// checked gives the next size bytes of r to fn and compares them with the id.
func (o *origin) checked(f File, size int64, r io.Reader, fn consumer) error {
	h := newObjectHash(o.idLen, size)
	limited := &io.LimitedReader{R: r, N: size}
	body := io.TeeReader(limited, h)
	if err := fn(f, size, body); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return corruptFile(f, err)
	}
	if limited.N > 0 {
		return corruptFile(f, io.ErrUnexpectedEOF)
	}
	if hex.EncodeToString(h.Sum(nil)) != f.Object {
		return corruptFile(f, errors.New("the content has another id"))
	}
	return nil
}

// newObjectHash returns the hash that becomes a blob's id once its content has
// been written to it.
func newObjectHash(idLen int, size int64) hash.Hash {
	var h hash.Hash
	if idLen == sha1.Size {
		h = sha1.New()
	} else {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00", size)
	return h
}
