package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestABudgetShrinksWhenThereAreTooManyRequestsAndGrowsAgain(t *testing.T) {
	b := newBudget(8)
	b.answered(true)
	b.answered(true) // of a request that was on its way as well
	if b.places != 4 {
		t.Errorf("after a refusal there are %d places, want 4", b.places)
	}
	for range 3 {
		b.answered(false)
		b.answered(true)
	}
	if b.places != 1 {
		t.Errorf("after further ones there are %d places, want 1", b.places)
	}
	for range 1000 {
		b.answered(false)
	}
	if b.places != 8 {
		t.Errorf("after many answers there are %d places, want 8", b.places)
	}
}

func TestABudgetGivesPlacesInTurnAndNoneWhileItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1)
		first, err := b.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { _, err := b.take(ctx); left <- err }()
		synctest.Wait()
		taken := make(chan struct{})
		go func() {
			release, err := b.take(t.Context())
			if err == nil {
				release()
			}
			close(taken)
		}()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		free := b.hold()
		first()
		synctest.Wait()
		select {
		case <-taken:
			t.Error("a place was given while the host is left alone")
		default:
		}
		free()
		<-taken
		if n := b.inFlight(); n != 0 {
			t.Errorf("%d places are still taken", n)
		}
	})
}
