package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	// lfsPointer begins the blob that stands in git for a file of Git LFS; see
	// https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
	lfsPointer = "version https://git-lfs.github.com/spec/v1"
	// lfsPointerMax is the size below which that specification has pointers stay.
	lfsPointerMax = 1024
)

var pointerForm = regexp.MustCompile(`^` + regexp.QuoteMeta(lfsPointer) + `\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,18})\n$`)

// pointer names a file of Git LFS by its content.
type pointer struct {
	oid  string // sha256 of the content in lower-case hexadecimal digits
	size int64  // bytes
}

// looksLikePointer reports whether a blob means to be a pointer.
func looksLikePointer(b []byte) bool {
	return len(b) < lfsPointerMax && bytes.HasPrefix(b, []byte(lfsPointer))
}

// parsePointer reads a pointer in the one form that its specification allows.
// Extensions are refused: what they do to a content only their program knows.
func parsePointer(b []byte) (pointer, error) {
	if !looksLikePointer(b) {
		return pointer{}, errors.New("it does not begin as a pointer does")
	}
	m := pointerForm.FindSubmatch(b)
	if m == nil {
		return pointer{}, errors.New("want the lines version, oid sha256:… and size, and nothing else")
	}
	size, err := strconv.ParseInt(string(m[2]), 10, 64)
	if err != nil {
		return pointer{}, err
	}
	return pointer{oid: string(m[1]), size: size}, nil
}

// encode returns the blob that the pointer is in git.
func (p pointer) encode() []byte {
	return fmt.Appendf(nil, "%s\noid sha256:%s\nsize %d\n", lfsPointer, p.oid, p.size)
}

// pointed reads the pointer that a blob of a file of Git LFS is. It is not ok for
// a content that was committed itself, which Git LFS leaves as it is.
func pointed(f File, blob []byte) (p pointer, ok bool, err error) {
	if !f.LFS || !looksLikePointer(blob) {
		return p, false, nil
	}
	p, err = parsePointer(blob)
	if err != nil {
		return p, false, &Error{
			Op: "read", Subject: fmt.Sprintf("%q", f.label()), Class: ErrLFSPointer, Err: err,
			Hint: "check the file out with Git LFS and commit it again, or exclude it with excludePaths",
		}
	}
	return p, true, nil
}

// openLFS opens the content that a pointer names. Its size is right; its digest
// is for the reader to check.
func (o *origin) openLFS(ctx context.Context, f File, p pointer) (io.ReadCloser, error) {
	store, err := o.lfsStore(ctx)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(store, p.oid[:2], p.oid[2:4], p.oid)
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular():
		return nil, o.missingLFS(f, p)
	case err != nil:
		return nil, err
	case st.Size() != p.size:
		return nil, o.corruptLFS(f, fmt.Errorf("the object has %d bytes, the pointer says %d", st.Size(), p.size))
	}
	return os.Open(name)
}

func (o *origin) missingLFS(f File, p pointer) error {
	e := &Error{Op: "read", Subject: fmt.Sprintf("%q", f.label()), Class: ErrLFSMissing, Err: errors.New(p.oid)}
	switch {
	case o.at.remote:
		e.Hint = "contents of Git LFS are not fetched from other repositories: exclude the file with excludePaths"
	case o.at.path != "":
		e.Hint = fmt.Sprintf("run: git -C %s lfs pull", shellWord(o.at.path))
	default:
		e.Hint = "run: git lfs pull"
	}
	return e
}

func (o *origin) corruptLFS(f File, err error) error {
	e := &Error{Op: "read Git LFS object of", Subject: fmt.Sprintf("%q", f.label()), Class: ErrCorrupt, Err: err}
	e.Hint = "run git lfs fsck and then git lfs pull"
	return e
}

// lfsContent gives the content that p names to fn.
func (o *origin) lfsContent(ctx context.Context, f File, p pointer, fn func(File, int64, io.Reader) error) error {
	r, err := o.openLFS(ctx, f, p)
	if err != nil {
		return err
	}
	return errors.Join(o.checkedLFS(f, p, r, fn), r.Close())
}

// checkedLFS gives the bytes of r to fn and compares them with the pointer.
func (o *origin) checkedLFS(f File, p pointer, r io.Reader, fn func(File, int64, io.Reader) error) error {
	h := sha256.New()
	limited := &io.LimitedReader{R: r, N: p.size}
	body := io.TeeReader(limited, h)
	if err := fn(f, p.size, body); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return o.corruptLFS(f, err)
	}
	if limited.N > 0 {
		return o.corruptLFS(f, io.ErrUnexpectedEOF)
	}
	if hex.EncodeToString(h.Sum(nil)) != p.oid {
		return o.corruptLFS(f, errors.New("the content has another sha256"))
	}
	return nil
}

// shellWord writes a path for a command line that a person may copy.
func shellWord(path string) string {
	if path != "" && !strings.ContainsFunc(path, notPlain) && path[0] != '-' {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

func notPlain(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+@%", r)
}
