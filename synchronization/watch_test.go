package synchronization_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

func ledgerOptions() synchronization.Options {
	return synchronization.Options{Now: time.Now, Rand: rand.Reader}
}

// blind is a backend that cannot be watched.
type blind struct {
	*mem.Backend
	err error
}

func (b blind) Watch(context.Context, string) (<-chan struct{}, error) { return nil, b.err }

var errDenied = errors.New("watch configmaps: 403 Forbidden")

func TestThatALedgerCannotBeWatchedIsToldOnce(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		told int
	}{
		{"it is not allowed", errDenied, 1},
		{"it is away, of which others tell", errors.Join(lock.ErrUnavailable, errDenied), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mem.New(time.Now)
				owner, _ := newRunner(t, b)
				ds := inShard(1)
				c := claim(t, owner, ds[0])
				core, logs := observer.New(zap.WarnLevel)
				o := ledgerOptions()
				o.Logger = zap.New(core)
				l, err := synchronization.Open(t.Context(), blind{b, test.err}, "shop", o)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				s, err := l.Join(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
						t.Error(err)
					}
				}()
				go func() {
					<-time.After(time.Minute)
					if err := c.Release(t.Context()); err != nil {
						t.Error(err)
					}
				}()
				if err := s.Wait(t.Context(), ds, nil); err != nil {
					t.Fatal(err)
				}
				if logs.Len() != test.told {
					t.Fatalf("it was told %d times: %v", logs.Len(), logs.All())
				}
				for _, e := range logs.All() {
					if e.ContextMap()["error"] != errDenied.Error() {
						t.Errorf("it was told %v", e.ContextMap())
					}
				}
			})
		})
	}
}
