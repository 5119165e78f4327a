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

	"golang.org/x/sync/errgroup"
)

const (
	// lfsPointer begins the blob that stands in git for a file of Git LFS; see
	// https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
	lfsPointer = "version https://git-lfs.github.com/spec/v1"
	// lfsPointerMax is the size below which that specification has pointers stay.
	lfsPointerMax = 1024
	// maxTarget bounds the target of a symbolic link, in bytes.
	maxTarget = 4096
)

// Contents calls fn with the content of each file in order; a symbolic link's
// content is its target. What fn does not read is skipped. Contents are checked
// against their object ids: an error that is found at the end of a file comes
// after its fn, so that only a call without error makes the bytes good.
//
// Errors: those of fn, [ErrLFSPointer], [ErrSubmodule], [ErrCorrupt], [ErrChanged].
func (t *Tree) Contents(ctx context.Context, files []File, fn func(f File, size int64, r io.Reader) error) error {
	return t.batch(ctx, "--batch", files, func(out *bufio.Reader) error {
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := t.content(f, out, fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// Sizes returns the sizes of the files' contents in bytes, in order, without
// reading them.
func (t *Tree) Sizes(ctx context.Context, files []File) ([]int64, error) {
	sizes := make([]int64, 0, len(files))
	err := t.batch(ctx, "--batch-check", files, func(out *bufio.Reader) error {
		for _, f := range files {
			d, ok := t.onDisk[f.Object]
			size := d.size
			if !ok {
				var err error
				if size, err = batchHeader(out, f); err != nil {
					return err
				}
			}
			sizes = append(sizes, size)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sizes, nil
}

// batch asks one "git cat-file" for the objects of files that git has, and has
// read take its answers.
func (t *Tree) batch(ctx context.Context, mode string, files []File, read func(*bufio.Reader) error) error {
	var ask []string
	for _, f := range files {
		if f.Mode == ModeSubmodule {
			return submoduleError(f.Path)
		}
		if _, ok := t.onDisk[f.Object]; !ok {
			ask = append(ask, f.Object)
		}
	}
	if len(ask) == 0 {
		return read(bufio.NewReader(strings.NewReader("")))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, stderr := t.repo.git.command(ctx, "cat-file", mode, "--buffer")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return gitError(ctx, "cat-file", err, stderr)
	}
	var feeder errgroup.Group
	feeder.Go(func() error { return feed(in, ask) })
	readErr := read(bufio.NewReaderSize(out, 64<<10))
	if readErr != nil {
		cancel()
	}
	feedErr := feeder.Wait()
	waitErr := cmd.Wait()
	if readErr != nil {
		return corruptAnswer(readErr, stderr)
	}
	if waitErr != nil {
		return gitError(ctx, "cat-file", waitErr, stderr)
	}
	return feedErr
}

// feed writes the ids, one a line, and closes the pipe.
func feed(in io.WriteCloser, ids []string) error {
	w := bufio.NewWriterSize(in, 32<<10)
	for _, id := range ids {
		if _, err := w.WriteString(id + "\n"); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	return errors.Join(w.Flush(), in.Close())
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
		Op: "read object", Subject: fmt.Sprintf("%s of %q", f.Object, f.Path), Class: ErrCorrupt, Err: err,
		Hint: "run git fsck; a fresh clone mends it",
	}
}

// content gives one file to fn, from git's answer or from the work tree.
func (t *Tree) content(f File, out *bufio.Reader, fn func(File, int64, io.Reader) error) error {
	if d, ok := t.onDisk[f.Object]; ok {
		return t.diskContent(f, d, fn)
	}
	size, err := batchHeader(out, f)
	if err != nil {
		return err
	}
	if err := t.checked(f, size, out, fn); err != nil {
		return err
	}
	if end, err := out.ReadByte(); err != nil || end != '\n' {
		return corruptFile(f, errors.New("git's answer has no end"))
	}
	return nil
}

// checked gives the next size bytes of r to fn and compares them with the id.
func (t *Tree) checked(f File, size int64, r io.Reader, fn func(File, int64, io.Reader) error) error {
	h := newObjectHash(t.files.idLen, size)
	limited := &io.LimitedReader{R: r, N: size}
	body := io.TeeReader(limited, h)
	var head io.Reader = body
	if f.Mode != ModeSymlink && size < lfsPointerMax {
		small, err := io.ReadAll(body)
		if err != nil {
			return corruptFile(f, err)
		}
		if bytes.HasPrefix(small, []byte(lfsPointer)) {
			return lfsError(f)
		}
		head = bytes.NewReader(small)
	}
	if err := fn(f, size, head); err != nil {
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

func lfsError(f File) error {
	return &Error{
		Op: "read", Subject: fmt.Sprintf("%q", f.Path), Class: ErrLFSPointer,
		Hint: "exclude it with excludePaths, or commit the content itself",
	}
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
