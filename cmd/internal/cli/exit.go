package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// Exit codes. They are documented in docs/reference/exit-codes.md.
const (
	exitOK          = 0
	exitFailure     = 1   // anything that has no code of its own
	exitUsage       = 2   // the command line or a variable is wrong
	exitConfig      = 3   // cairn.yaml or cairn.lock is wrong
	exitSource      = 4   // the repository cannot be used, or a file is missing in it
	exitCommand     = 5   // a command of a stage failed
	exitStorage     = 6   // the stages storage or a base's registry failed or refused
	exitLedger      = 7   // the ledger failed or refused
	exitEngine      = 8   // the engine or its daemon failed
	exitKept        = 9   // made, but kept in the local cache, unpublished
	exitInterrupted = 130 // SIGINT or SIGTERM
)

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// fail writes what happened, why, and what to do, and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	var reported *reportedError
	if errors.As(err, &reported) {
		err = reported.err
	}
	code, hint := classify(err)
	if errors.Is(err, errInterrupted) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		code, hint = exitInterrupted, ""
	}
	if a.output == "json" && reported == nil {
		a.failJSON(err, code, hint)
	}
	fmt.Fprintf(a.err, "error: %s\n", printable(err.Error()))
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", printable(hint))
	}
	return code
}

// reportedError is an error of which the JSON on standard output tells already.
type reportedError struct{ err error }

func (e *reportedError) Error() string { return e.err.Error() }
func (e *reportedError) Unwrap() error { return e.err }

func (a *app) failJSON(err error, code int, hint string) {
	_ = json.NewEncoder(a.out).Encode(struct {
		Error string `json:"error"`
		Hint  string `json:"hint,omitempty"`
		Exit  int    `json:"exit"`
	}{err.Error(), hint, code})
}

// printable keeps what came from outside from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// hinter is an error that knows what to do.
type hinter interface{ Hint() string }

// classify returns the exit code of an error and what to do about it.
func classify(err error) (code int, hint string) {
	code, hint = classOf(err)
	var h hinter
	if errors.As(err, &h) {
		hint = h.Hint()
	}
	return code, hint
}

func classOf(err error) (int, string) {
	for _, c := range []func(error) (int, string){
		classifyUsage, classifyProject, classifyBuild, classifyLedger, classifyStorage, classifyEngine,
	} {
		if code, hint := c(err); code != 0 {
			return code, hint
		}
	}
	return exitFailure, ""
}

func classifyUsage(err error) (int, string) {
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage, "run the command with --help"
	case errors.Is(err, plan.ErrNoSuchImage):
		return exitUsage, ""
	}
	return 0, ""
}

func classifyProject(err error) (int, string) {
	var cfg *config.Errors
	var src *source.Error
	switch {
	case errors.As(err, &cfg):
		return exitConfig, ""
	case errors.As(err, &src):
		return exitSource, src.Hint
	}
	return 0, ""
}

func classifyBuild(err error) (int, string) {
	var foreign *build.ForeignStorageError
	var exit *engine.ExitError
	var kept *build.KeptError
	switch {
	case errors.As(err, &exit):
		return exitCommand, ""
	case errors.As(err, &foreign) && foreign.What == "project":
		return exitStorage, "give each project a repository of its own with --stages-storage"
	case errors.As(err, &foreign) && foreign.What == "ledger":
		return exitLedger, "all runners that publish into one storage must use one --synchronization"
	case errors.As(err, &foreign):
		return exitStorage, "use the version of cairn that wrote it"
	case errors.As(err, &kept):
		return exitKept, "run the build again when the cause is gone"
	case errors.Is(err, assemble.ErrPlatform):
		return exitConfig, "choose a base that is made for the platform, or change platform in cairn.yaml"
	}
	return 0, ""
}

func classifyLedger(err error) (int, string) {
	var elsewhere *synchronization.BoundElsewhereError
	switch {
	case errors.As(err, &elsewhere):
		return exitLedger, "use the storage that the ledger belongs to, or another ledger"
	case errors.Is(err, synchronization.ErrUnavailable):
		return exitLedger, "the build goes on without publishing with --unsynchronized=keep-local"
	case errors.Is(err, lock.ErrLost):
		return exitLedger, "run the build again: what was finished is kept"
	}
	return 0, ""
}

func classifyStorage(err error) (int, string) {
	var e *storage.Error
	if !errors.As(err, &e) {
		return 0, ""
	}
	hints := map[error]string{
		storage.ErrUnauthorized: "log in to the registry (docker login), or check the credentials in the Docker configuration",
		storage.ErrDenied:       "the credentials lack a permission for this repository",
		storage.ErrRateLimited:  "the registry limits requests; try again later, or log in for a higher limit",
		storage.ErrTransient:    "the registry could not be reached or is overloaded; check the address, or try again later",
		storage.ErrCorrupt:      "the storage returned something else than was stored there",
		storage.ErrFull:         "free space on the device that holds it, or name another directory with --cache-dir",
		storage.ErrTooLarge:     "the registry refuses a blob or manifest of this size",
	}
	return exitStorage, hints[e.Class]
}

func classifyEngine(err error) (int, string) {
	var start *daemonctl.StartError
	switch {
	case errors.Is(err, daemonctl.ErrNoDaemon):
		return exitEngine, "install cairnd beside cairn, or name a BuildKit with --engine"
	case errors.As(err, &start), errors.Is(err, engine.ErrEngineGone):
		return exitEngine, ""
	}
	return 0, ""
}
