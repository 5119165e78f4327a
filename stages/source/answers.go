package source

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os/exec"

	"golang.org/x/sync/errgroup"
)

// answers are those of one "git cat-file" process to a list of object ids.
type answers struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr *tail
	feeder errgroup.Group
	// left is how many answers are still to be read.
	left int
}

// ask starts a process that ends with ctx, or when all was read.
func (o *origin) ask(ctx context.Context, mode string, ids []string) (*answers, error) {
	cmd, stderr := o.git.command(ctx, "cat-file", mode, "--buffer")
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
	a := &answers{cmd: cmd, out: bufio.NewReaderSize(out, 64<<10), stderr: stderr, left: len(ids)}
	a.feeder.Go(func() error { return feed(in, ids) })
	return a, nil
}

// wait returns how the process ended.
func (a *answers) wait(ctx context.Context) error {
	fed := a.feeder.Wait()
	if err := a.cmd.Wait(); err != nil {
		return gitError(ctx, "cat-file", err, a.stderr)
	}
	return fed
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
