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
	"sync"
)

// inMemory is up to which size a file that a [Reader] opened is held in memory,
// in bytes. Larger ones pass through a temporary file.
const inMemory = 8 << 20

// Reader opens single files of a tree in any order, through one git process for
// each repository. Its methods may be called concurrently.
type Reader struct {
	tree *Tree

	mu      sync.Mutex
	running map[*origin]*conversation
}

// conversation is a git process that is asked for one object at a time.
type conversation struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
}

// Reader returns a reader of the tree's files; the caller closes it.
func (t *Tree) Reader() *Reader { return &Reader{tree: t, running: make(map[*origin]*conversation)} }

// Open returns the content of f, which has been checked. Errors are those of
// [Tree.Contents].
func (r *Reader) Open(ctx context.Context, f File) (io.ReadCloser, error) {
	if f.Mode == ModeSubmodule {
		return nil, submoduleError(f.label())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.tree.originOf(f)
	out, err := r.ask(ctx, o, f)
	if err != nil {
		return nil, err
	}
	var content io.ReadCloser
	err = o.content(ctx, f, out, func(_ File, size int64, body io.Reader) error {
		var err error
		content, err = hold(size, body)
		return err
	})
	if err != nil {
		if content != nil {
			err = errors.Join(err, content.Close())
		}
		// What git would say next belongs to this file.
		return nil, errors.Join(err, r.stop(o))
	}
	return content, nil
}

// ask sends f's id to the repository's git, which is started when first needed,
// and returns where the answer comes.
func (r *Reader) ask(ctx context.Context, o *origin, f File) (*bufio.Reader, error) {
	if _, ok := o.disk(f); ok {
		return nil, nil
	}
	c := r.running[o]
	if c == nil {
		var err error
		if c, err = o.converse(ctx); err != nil {
			return nil, err
		}
		r.running[o] = c
	}
	if _, err := fmt.Fprintln(c.in, f.Object); err != nil {
		return nil, errors.Join(gitError(ctx, "cat-file", err, c.stderr), r.stop(o))
	}
	return c.out, nil
}

func (o *origin) converse(ctx context.Context) (*conversation, error) {
	// The process serves later calls as well, so it does not end with this one's context.
	cmd, stderr := o.git.command(context.WithoutCancel(ctx), "cat-file", "--batch")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, gitError(ctx, "cat-file", err, stderr)
	}
	return &conversation{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 64<<10), stderr: stderr}, nil
}

// stop ends a git; the next Open of its files starts another.
func (r *Reader) stop(o *origin) error {
	c := r.running[o]
	if c == nil {
		return nil
	}
	delete(r.running, o)
	err := c.in.Close()
	// Whatever it still says is not wanted, and it must not block on saying it.
	_, drained := io.Copy(io.Discard, c.out)
	return errors.Join(err, drained, c.cmd.Wait())
}

// Close ends the git processes. Files that are open stay readable.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for o := range r.running {
		errs = append(errs, r.stop(o))
	}
	return errors.Join(errs...)
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
