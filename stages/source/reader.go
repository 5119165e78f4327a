package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// inMemory is up to which size a file that a [Reader] opened is held in memory,
// in bytes. Larger ones pass through a temporary file.
const inMemory = 8 << 20

// Reader opens single files of a tree in any order, through one git process.
// Its methods may be called concurrently.
type Reader struct {
	tree *Tree

	mu     sync.Mutex
	in     io.WriteCloser
	out    *bufio.Reader
	cmd    *exec.Cmd
	stderr *tail
}

// Reader returns a reader of the tree's files; the caller closes it.
func (t *Tree) Reader() *Reader { return &Reader{tree: t} }

// Open returns the content of f, which has been checked. Errors are those of
// [Tree.Contents].
func (r *Reader) Open(ctx context.Context, f File) (io.ReadCloser, error) {
	if f.Mode == ModeSubmodule {
		return nil, submoduleError(f.Path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ask(ctx, f); err != nil {
		return nil, err
	}
	var content io.ReadCloser
	err := r.tree.content(f, r.out, func(_ File, size int64, body io.Reader) error {
		var err error
		content, err = hold(size, body)
		return err
	})
	if err != nil {
		if content != nil {
			err = errors.Join(err, content.Close())
		}
		// What git would say next belongs to this file.
		return nil, errors.Join(err, r.stop())
	}
	return content, nil
}

// ask sends f's id to git, which is started when first needed.
func (r *Reader) ask(ctx context.Context, f File) error {
	if _, ok := r.tree.onDisk[f.Object]; ok {
		return nil
	}
	if r.cmd == nil {
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(r.in, f.Object); err != nil {
		return errors.Join(gitError(ctx, "cat-file", err, r.stderr), r.stop())
	}
	return nil
}

func (r *Reader) start(ctx context.Context) error {
	// The process serves later calls as well, so it does not end with this one's context.
	cmd, stderr := r.tree.repo.git.command(context.WithoutCancel(ctx), "cat-file", "--batch")
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
	r.cmd, r.in, r.out, r.stderr = cmd, in, bufio.NewReaderSize(out, 64<<10), stderr
	return nil
}

// stop ends git; the next Open starts another.
func (r *Reader) stop() error {
	if r.cmd == nil {
		return nil
	}
	err := r.in.Close()
	// Whatever it still says is not wanted, and it must not block on saying it.
	_, drained := io.Copy(io.Discard, r.out)
	err = errors.Join(err, drained, r.cmd.Wait())
	r.cmd, r.out = nil, bufio.NewReader(strings.NewReader(""))
	return err
}

// Close ends the git process. Files that are open stay readable.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop()
}

// hold takes a file out of the stream, so that others can be opened meanwhile.
func hold(size int64, body io.Reader) (io.ReadCloser, error) {
	if size <= inMemory {
		b, err := io.ReadAll(body)
		return io.NopCloser(bytes.NewReader(b)), err
	}
	tmp, err := os.CreateTemp("", "cairn-file-")
	if err != nil {
		return nil, err
	}
	held := &temporary{tmp}
	_, err = io.Copy(tmp, body)
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

// temporary is a file that goes when it is closed.
type temporary struct{ *os.File }

// Close implements [io.Closer].
func (t *temporary) Close() error { return errors.Join(t.File.Close(), os.Remove(t.Name())) }
