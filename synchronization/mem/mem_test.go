package mem_test

import (
	"testing"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
	ledgertest "github.com/cairnbuild/cairn/synchronization/synctest"
)

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledgertest.Harness {
		b := mem.New(time.Now)
		return ledgertest.Harness{Open: func() synchronization.Backend { return b }, Lose: b.Lose, Now: time.Now}
	})
}
