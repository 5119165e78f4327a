package engine_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
)

var errUnreadable = errors.New("the content is not here")

// unreadable is a tree whose files cannot be read until it is mended.
type unreadable struct {
	tree
	mended atomic.Bool
	// midway has files fail after their first byte.
	midway bool
}

func (u *unreadable) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	switch {
	case u.mended.Load():
		return u.tree.Open(ctx, path)
	case u.midway:
		return io.NopCloser(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(errUnreadable))), nil
	default:
		return nil, errUnreadable
	}
}

func TestAFileThatCannotBeReadFailsTheRunAndIsNotSentEmpty(t *testing.T) {
	e := dial(t, shared)
	tests := []struct {
		name string
		run  func(t *testing.T, key string, files engine.Tree) (content string, err error)
	}{
		{"the files of commands", func(t *testing.T, key string, files engine.Tree) (string, error) {
			j := job(t, key, image(t, busybox(t)), "cat /a >/result")
			j.Files = files
			l := &layer{}
			_, err := e.Run(t.Context(), j, l.take, nil)
			return l.entries["result"].data, err
		}},
		{"the context of a Dockerfile", func(t *testing.T, key string, files engine.Tree) (string, error) {
			j := &engine.Job{Key: key, Name: "app", Platform: "linux/amd64", Dockerfile: &engine.Dockerfile{
				Recipe: &stages.Dockerfile{}, Context: files,
				Source: &stages.DockerfileSource{Path: "Dockerfile", Text: []byte("FROM scratch\nCOPY a /result\n"), Root: -1, BuildPlatform: "linux/amd64"},
			}}
			l := &layer{}
			_, err := e.Build(t.Context(), j, func(ctx context.Context, _ int, raw io.Reader) error { return l.take(ctx, raw) }, nil)
			return l.entries["result"].data, err
		}},
	}
	for _, tt := range tests {
		for how, midway := range map[string]bool{"not opened": false, "not read to its end": true} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				files := &unreadable{tree: tree{"a": text("hello")}, midway: midway}
				k := key(t, how)
				if got, err := tt.run(t, k, files); !errors.Is(err, errUnreadable) {
					t.Fatalf("the run gave %q and the error %v", got, err)
				}
				files.mended.Store(true)
				got, err := tt.run(t, k, files)
				check(t, err)
				if got != "hello" {
					t.Errorf("once the file can be read, it holds %q", got)
				}
			})
		}
	}
}
