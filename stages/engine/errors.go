package engine

import (
	"errors"
	"fmt"
)

// ErrEngineGone says that the engine was lost while a job ran or before. All
// that it had in hand must be done again on a new [Engine].
var ErrEngineGone = errors.New("the build engine is gone")

// ExitError is returned when the commands of a job fail.
type ExitError struct {
	// Job is the job that failed: the one that ran, or one that it continues.
	Job *Job
	// Code is the exit code; above 128 it is 128 and the number of a signal.
	Code int
	// Command is the command that failed, when that is certain; else empty.
	Command string
	// Output holds the last lines that the commands wrote, both streams together.
	Output []string
}

// Error implements error. The output is left to whoever shows the error.
func (e *ExitError) Error() string {
	if e.Command != "" {
		return fmt.Sprintf("%s: %q ended with exit code %d", e.Job.Name, e.Command, e.Code)
	}
	return fmt.Sprintf("%s: the commands ended with exit code %d", e.Job.Name, e.Code)
}
