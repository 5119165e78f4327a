package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

func TestARemovalThatTakesTooLongSaysForWhomItWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := synchronization.Open(t.Context(), mem.New(time.Now), "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		join := func() *synchronization.Session {
			s, err := l.Join(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		builder, cleaner := join(), join()
		d := stages.DigestOf([]byte("slow"))
		if _, err := builder.TryAcquire(t.Context(), []stages.Digest{d}); err != nil {
			t.Fatal(err)
		}
		began, told := time.Now(), 0
		err = bounded(t.Context(), time.Hour, func(synchronization.Holder) { told++ }, func(ctx context.Context, waiting func(synchronization.Holder)) error {
			return cleaner.Drain(ctx, waiting)
		})
		var over *RemovalLimitError
		if !errors.As(err, &over) || over.Last == nil || over.Last.Digest != d || !strings.Contains(err.Error(), d.Short()) || told != 1 {
			t.Errorf("the error is %v, told %d times", err, told)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("it took %s", took)
		}
		for _, s := range []*synchronization.Session{builder, cleaner} {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
