package lock_test

import (
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

func TestMemoryStore(t *testing.T) {
	locktest.Run(t, func(*testing.T) locktest.Harness {
		b := mem.New(time.Now)
		return locktest.Harness{Open: func() lock.Store { return b }, Lose: b.Lose, Now: time.Now}
	})
}
