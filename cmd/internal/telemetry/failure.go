package telemetry

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// failureClass says of what sort an error is, in words of our own: its text may
// hold a command's output or a server's answer.
func failureClass(err error) string {
	var exit *engine.ExitError
	var at *storage.Error
	var kept *build.KeptError
	switch {
	case errors.As(err, &exit):
		return fmt.Sprintf("a command ended with exit code %d", exit.Code)
	case errors.As(err, &at):
		return at.Op + ": " + at.Class.Error()
	case errors.Is(err, synchronization.ErrUnavailable):
		return "the ledger could not be reached"
	case errors.As(err, &kept):
		return "stages are kept and not published"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	default:
		return "failed"
	}
}
