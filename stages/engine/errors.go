package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	// Command is the command that failed, when that is certain; else empty. For a
	// Dockerfile it is the instruction as the file has it, at File and Line.
	Command string
	File    string
	Line    int
	// Output holds the last lines that the commands wrote, both streams together.
	Output []string
}

// Error implements error. The output is left to whoever shows the error.
func (e *ExitError) Error() string {
	if e.File != "" {
		return fmt.Sprintf("%s: %s:%d: %q ended with exit code %d", e.Job.Name, e.File, e.Line, e.Command, e.Code)
	}
	if e.Command != "" {
		return fmt.Sprintf("%s: %q ended with exit code %d", e.Job.Name, e.Command, e.Code)
	}
	return fmt.Sprintf("%s: the commands ended with exit code %d", e.Job.Name, e.Code)
}

// MissingPathError is returned when a [Copy] takes what its source does not have.
type MissingPathError struct {
	// Job is the job with the copy: the one that ran, or one that it is made from.
	Job *Job
	// Path is the copy's Add.
	Path string
}

// Error implements error.
func (e *MissingPathError) Error() string {
	return fmt.Sprintf("import of %s: the image it is taken from has no such path", e.Path)
}

// missingPath finds the copy whose source lacks a path, nil where err is about
// something else. The engine has no type or code for it, only its text: one
// where it sums up the source first, and those of the system where it does not
// need to. All name the path, which is compared with those that the copies take.
func missingPath(job *Job, err error) *MissingPathError {
	text := err.Error()
	var missing *MissingPathError
	// The function given here never fails.
	_ = job.visit(map[*Job]bool{}, func(j *Job) error {
		i := slices.IndexFunc(j.Copies, func(c Copy) bool {
			return strings.Contains(text, ": "+strconv.Quote(c.Add)+": not found") ||
				strings.Contains(text, ": lstat "+c.Add+": no such file or directory") ||
				strings.Contains(text, ": lstat "+c.Add+": not a directory")
		})
		if i >= 0 && missing == nil {
			missing = &MissingPathError{Job: j, Path: j.Copies[i].Add}
		}
		return nil
	})
	return missing
}
