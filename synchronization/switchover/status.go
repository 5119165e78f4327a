package switchover

import (
	"context"

	"github.com/cairnbuild/cairn/synchronization"
)

// Status is how far a project's switch is, by the record of the old ledger.
type Status struct {
	// Move is nil where there is none.
	Move *synchronization.Move
	// Open: builds go on in the old ledger.
	Open bool
	// Running: whoever moves is not known to have ended.
	Running bool
	// Builds is how many others have a session in the old ledger.
	Builds int
}

// StatusOf returns the status as it was when the ledger was opened, with one request
// for the builds. It changes nothing.
func StatusOf(ctx context.Context, l *synchronization.Ledger) (Status, error) {
	stance := l.First()
	living, err := l.Living(ctx, "")
	if err != nil {
		return Status{}, err
	}
	s := Status{Move: stance.Move, Open: stance.Seal.Open, Builds: len(living)}
	for _, h := range living {
		if stance.Move != nil && h.Session == stance.Move.Session {
			s.Running = true
			s.Builds--
		}
	}
	return s, nil
}
