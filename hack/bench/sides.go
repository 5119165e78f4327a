package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

// cairnRun is one build by cairn and what could be seen of it from outside.
type cairnRun struct {
	runner.Measure
	report runner.Report
	// requests are those that the registry logged, without the ones that only ask
	// how to log in.
	requests []testbed.Request
	// uploaded is how much the registry's disk use grew, in bytes.
	uploaded int64
	// daemons is how many processes cairn left running.
	daemons int
}

// pulled returns the bytes of blobs that were fetched.
func (r cairnRun) pulled() int64 {
	var n int64
	for _, q := range r.requests {
		if q.Method == "GET" && strings.Contains(q.Path, "/blobs/") {
			n += q.Bytes
		}
	}
	return n
}

// cairn builds the project in dir on a machine without any state.
func (b *bench) cairn(ctx context.Context, dir, storage string) (r cairnRun, err error) {
	m := runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}
	if err := m.Make(); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, m.Remove(context.WithoutCancel(ctx))) }()
	before, err := b.registry.StoredBytes()
	if err != nil {
		return r, err
	}
	if err := b.registry.ResetLog(ctx); err != nil {
		return r, err
	}
	if r.report, r.Measure, err = m.Build(ctx, dir, nil, "--stages-storage", b.registry.Address()+"/"+storage, "--synchronization", ":local"); err != nil {
		return r, err
	}
	log, err := b.registry.AccessLog(ctx)
	if err != nil {
		return r, err
	}
	for _, q := range log {
		if q.Path != "/v2/" {
			r.requests = append(r.requests, q)
		}
	}
	after, err := b.registry.StoredBytes()
	if err != nil {
		return r, err
	}
	daemons, err := m.Daemons()
	if err != nil {
		return r, err
	}
	r.uploaded, r.daemons = after-before, len(daemons)
	return r, nil
}

// pin writes the project's cairn.lock, which has to be committed afterwards.
func (b *bench) pin(ctx context.Context, dir string) (err error) {
	m := runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}
	if err := m.Make(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Remove(context.WithoutCancel(ctx))) }()
	_, _, err = m.Cairn(ctx, dir, nil, "lock")
	return err
}

// yardBuild is one build by buildctl.
type yardBuild struct {
	// dir holds the Dockerfile and the context.
	dir string
	// file is the Dockerfile's name.
	file string
	// image is the repository that the result is pushed to; its cache is beside it.
	image string
	args  map[string]string
	// export writes the cache of all steps.
	export bool
}

// yardstick builds with a daemon and returns how long buildctl took.
func (b *bench) yardstick(ctx context.Context, d *testbed.Buildkitd, y yardBuild) (time.Duration, error) {
	target := b.registry.Address() + "/" + y.image
	args := []string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + y.dir, "--local", "dockerfile=" + y.dir, "--opt", "filename=" + y.file,
		"--output", "type=image,push=true,oci-mediatypes=true,name=" + target + ":latest",
		"--import-cache", "type=registry,ref=" + target + ":cache",
	}
	for name, value := range y.args {
		args = append(args, "--opt", "build-arg:"+name+"="+value)
	}
	if y.export {
		args = append(args, "--export-cache", "type=registry,mode=max,oci-mediatypes=true,ref="+target+":cache")
	}
	begin := time.Now()
	out, err := d.Command(ctx, args...).CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		return took, fmt.Errorf("buildctl: %w: %s", err, out)
	}
	return took, nil
}

// withYardstick gives f a daemon without any state.
func (b *bench) withYardstick(ctx context.Context, f func(*testbed.Buildkitd) error) (err error) {
	d, err := testbed.StartBuildkitd(ctx, testbed.BuildkitdOptions{Insecure: []string{b.registry.Address()}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	return f(d)
}

// yardOnce is one build with a daemon of its own.
func (b *bench) yardOnce(ctx context.Context, y yardBuild) (took time.Duration, err error) {
	err = b.withYardstick(ctx, func(d *testbed.Buildkitd) error {
		took, err = b.yardstick(ctx, d, y)
		return err
	})
	return took, err
}

// writer fills a repository.
type writer func(r runner.Repository) error

// repository makes a git repository with what the writers write; where pinned,
// with a cairn.lock.
func (b *bench) repository(ctx context.Context, name string, pinned bool, writers ...writer) (runner.Repository, error) {
	r, err := runner.NewRepository(ctx, b.path(name))
	if err != nil {
		return r, err
	}
	for _, w := range writers {
		if err := w(r); err != nil {
			return r, err
		}
	}
	if err := r.Commit(ctx, "Begin"); err != nil {
		return r, err
	}
	if !pinned {
		return r, nil
	}
	if err := b.pin(ctx, r.Dir); err != nil {
		return r, err
	}
	return r, r.Commit(ctx, "Pin the bases")
}

// text returns a writer of one file.
func text(name, content string) writer {
	return func(r runner.Repository) error { return r.Write(name, []byte(content)) }
}

// files returns a writer of n small files named by format, which holds one %d.
func files(format string, n int) writer {
	return func(r runner.Repository) error {
		for i := range n {
			if err := r.Write(fmt.Sprintf(format, i), fmt.Appendf(nil, "file %d\n", i)); err != nil {
				return err
			}
		}
		return nil
	}
}

// document is text that is built up line by line.
type document struct{ strings.Builder }

func (d *document) line(format string, args ...any) {
	fmt.Fprintf(&d.Builder, format+"\n", args...)
}

var _ io.Writer = (*document)(nil)
