package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/telemetry"
	"github.com/cairnbuild/cairn/stages/build"
)

// witness tells programs of a build: a trace where one is wanted, and the
// metrics of the host's daemon where one runs.
type witness struct {
	a     *app
	trace *telemetry.Trace // nil where none is wanted
	waits telemetry.Waits
}

func (a *app) newWitness(ctx context.Context) *witness {
	w := &witness{a: a, trace: telemetry.StartTrace(ctx, telemetry.TraceOptions{
		Getenv: a.getenv, Version: version, Began: a.host.Began, Now: a.host.Now, Log: a.host.Log,
	})}
	if w.trace != nil {
		a.host.Log = a.host.Log.With(zap.String("trace_id", w.trace.ID()))
	}
	return w
}

// observer returns what tells both the witness and show.
func (w *witness) observer(show build.Observer) build.Observer {
	all := telemetry.Observers{show, &w.waits}
	if w.trace != nil {
		all = append(all, w.trace)
	}
	return all
}

// close tells how the build ended. Whether anybody hears it changes nothing.
func (w *witness) close(ctx context.Context, rep *build.Report, err error) {
	exit := exitOK
	if err != nil {
		exit = failureOf(ctx, err).Exit
	}
	w.trace.Close(ctx, rep, exit, err)
	took := w.a.host.Now().Sub(w.a.host.Began)
	sum := telemetry.Summarize(rep, outcomeOf(exit), took, w.waits.Sum())
	err = w.a.settings.TellDaemon(context.WithoutCancel(ctx), w.a.host, sum)
	if err != nil && !errors.Is(err, daemonctl.ErrNotRunning) {
		w.a.host.Log.Debug("the daemon's metrics do not have this build", zap.Error(err))
	}
}

func outcomeOf(exit int) daemonctl.Outcome {
	switch exit {
	case exitOK:
		return daemonctl.OutcomeSucceeded
	case exitKept:
		return daemonctl.OutcomeKept
	case exitInterrupted:
		return daemonctl.OutcomeInterrupted
	default:
		return daemonctl.OutcomeFailed
	}
}

// reportFileError says that the file of --report-file could not be written.
type reportFileError struct{ err error }

func (e *reportFileError) Error() string { return fmt.Sprintf("write the report file: %v", e.err) }
func (e *reportFileError) Unwrap() error { return e.err }
func (e *reportFileError) Hint() string {
	return "name a file with --report-file in a directory that exists and may be written"
}

// writeReport writes what --output json prints to a file, where one is named. The
// file is replaced as a whole: whoever reads it sees the old one or the new one.
func writeReport(ctx context.Context, path string, rep *build.Report, err error) error {
	if path == "" {
		return nil
	}
	var doc bytes.Buffer
	if err := writeJSON(&doc, documentOf(ctx, rep, err)); err != nil {
		return &reportFileError{err}
	}
	if err := replaceFile(path, doc.Bytes()); err != nil {
		return &reportFileError{err}
	}
	return nil
}
