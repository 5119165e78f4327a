package lock_test

import (
	"context"
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// countedRecords counts how often the sessions are read.
type countedRecords struct {
	lock.Store
	reads int
}

// Records implements [lock.Sessions].
func (s *countedRecords) Records(ctx context.Context, group string) ([]lock.Record, error) {
	s.reads++
	return s.Store.Records(ctx, group)
}

func TestAGlanceReadsOnlyWhereItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countedRecords{Store: mem.New(time.Now)}
		c := lock.NewClient(t.Context(), store, lock.Options{Now: time.Now, Rand: rand.Reader})
		defer c.Close()
		renew := func(session string) {
			t.Helper()
			if err := store.Renew(t.Context(), "g", lock.Record{Session: session, Seq: 1, TTL: 10 * time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		o := c.Observe("g")
		glance := func(reads int, dead bool, session string) {
			t.Helper()
			found, err := o.Glance(t.Context(), time.Second, session)
			if err != nil {
				t.Fatal(err)
			}
			if found[session] != dead || store.reads != reads {
				t.Errorf("session %s: dead=%v after %d reads, want %v after %d", session, found[session], store.reads, dead, reads)
			}
		}
		renew("aa")
		glance(1, false, "aa")
		glance(1, false, "aa") // what was read is young
		renew("bb")
		glance(2, false, "bb") // not seen before
		glance(3, true, "cc")
		glance(4, true, "cc") // what was not there may be by now
		<-time.After(2 * time.Second)
		glance(5, false, "aa")
		<-time.After(9 * time.Second)
		glance(6, true, "aa")
	})
}
