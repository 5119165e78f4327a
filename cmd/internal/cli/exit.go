package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/dockerfile"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/registry"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
)

// Exit codes. They are documented in docs/reference/exit-codes.md, which a test
// compares with them.
const (
	exitOK          = 0   // done
	exitFailure     = 1   // anything that has no code of its own
	exitUsage       = 2   // the command line or a variable is wrong, or gives no secret that is needed
	exitConfig      = 3   // cairn.yaml or cairn.lock is wrong, or does not fit its base
	exitSource      = 4   // the git repository cannot be used, or something is missing in the commit
	exitCommand     = 5   // a command of a stage failed
	exitStorage     = 6   // the stages storage or a base's registry failed or refused
	exitLedger      = 7   // the ledger failed or refused
	exitEngine      = 8   // the build engine or its daemon failed
	exitKept        = 9   // stages were made, but only kept in the local cache: they are not published
	exitPartly      = 10  // a sync or a purge did what it could, and left something out
	exitUnread      = 11  // a cleanup or a purge could not read what may be in use, or a purge found that something is, and removed nothing
	exitInterrupted = 130 // ended by SIGINT or SIGTERM
)

// usageError is a wrong command line.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return fmt.Sprintf("see \"%s --help\"", e.command) }

// hintedError adds to an error what is known about it only where it is passed on.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }
func (e *hintedError) Hint() string  { return e.hint }

// reportedError is an error of which the JSON on standard output tells already.
type reportedError struct{ error }

func (e *reportedError) Unwrap() error { return e.error }

// failure is how a run ended badly: what is shown of it, and what JSON has as "error".
type failure struct {
	Message string `json:"message"`
	// Hint says what to do, "" where the message does.
	Hint string `json:"hint,omitempty"`
	Exit int    `json:"exit"`
	// Problems are all that is wrong with the configuration.
	Problems []problem `json:"problems,omitempty"`
	// Command is the one that failed.
	Command *failedCommand `json:"command,omitempty"`
}

// problem is one thing that is wrong with a file.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Rendered is the line as templates made it.
	Rendered string `json:"rendered,omitempty"`
}

// failedCommand is what is known about a command that failed.
type failedCommand struct {
	Stage string `json:"stage"`
	Code  int    `json:"code"`
	// Output are the last lines of it, escape sequences left out.
	Output []string `json:"output"`
}

// failureOf says everything about an error.
func failureOf(ctx context.Context, err error) failure {
	if interrupted(ctx) {
		return failure{Message: errInterrupted.Error(), Exit: exitInterrupted}
	}
	code, hint := classify(err)
	f := failure{Message: printable(err.Error()), Hint: printable(hint), Exit: code}
	var cfg *config.Errors
	if errors.As(err, &cfg) {
		f.Problems = problemsOf(cfg)
	}
	var df *dockerfile.Error
	if errors.As(err, &df) && df.Excerpt() != "" {
		f.Message += "\n" + printable(df.Excerpt())
	}
	var exit *engine.ExitError
	if errors.As(err, &exit) {
		// It names the stage itself, and what is kept is told apart from it.
		f.Message = printable(exit.Error())
		f.Command = &failedCommand{Stage: exit.Job.Name, Code: exit.Code, Output: outputOf(exit)}
	}
	return f
}

func problemsOf(errs *config.Errors) []problem {
	var out []problem
	for _, e := range errs.List {
		out = append(out, problem{
			File: printable(e.File), Line: e.Line, Column: e.Column,
			Message: printable(e.Message), Hint: printable(e.Hint), Rendered: printable(e.Rendered),
		})
	}
	return out
}

// outputOf returns the last lines of a failed command for people.
func outputOf(e *engine.ExitError) []string {
	out := make([]string, 0, len(e.Output))
	for _, l := range e.Output {
		out = append(out, outputLine([]byte(l)))
	}
	return out
}

// fail writes what happened, why, and what to do, and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	f := failureOf(ctx, err)
	var reported *reportedError
	if !errors.As(err, &reported) && a.wantsJSON() {
		// Where standard output is gone, the exit code still tells.
		_ = writeJSON(a.Out, struct {
			Error failure `json:"error"`
		}{f})
	}
	f.write(a.Err)
	return f.Exit
}

// write writes one line for each thing that is wrong, each with its hint.
func (f failure) write(w io.Writer) {
	if len(f.Problems) == 0 {
		fmt.Fprintf(w, "error: %s\n", indented(f.Message, "  "))
	} else {
		for line := range strings.Lines(f.Message) {
			fmt.Fprintf(w, "error: %s\n", strings.TrimSuffix(line, "\n"))
			f.writeHintOf(w, line)
		}
	}
	if f.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", indented(f.Hint, "hint: "))
	}
}

// writeHintOf writes the hint of the problem that a line of the message is about.
func (f failure) writeHintOf(w io.Writer, line string) {
	for _, p := range f.Problems {
		if p.Hint != "" && strings.HasPrefix(line, p.place()) && strings.Contains(line, p.Message) {
			fmt.Fprintf(w, "  hint: %s\n", indented(p.Hint, "  "))
			return
		}
	}
}

func (p problem) place() string { return fmt.Sprintf("%s:%d:", p.File, p.Line) }

// hinter is an error that knows what to do.
type hinter interface{ Hint() string }

// classify returns the exit code of an error and what to do about it.
func classify(err error) (code int, hint string) {
	code, hint = exitFailure, ""
	for _, c := range []func(error) (int, string){
		classifyCleanup, classifyUsage, classifyProject, classifyBuild, classifyImage, classifySwitch, classifyLedger, classifySync, classifyStorage, classifyExport, classifyDockerfile, classifyOperation, classifyEngine,
	} {
		if n, h := c(err); n != 0 {
			code, hint = n, h
			break
		}
	}
	var h hinter
	if errors.As(err, &h) {
		hint = h.Hint()
	}
	return code, hint
}

func classifyUsage(err error) (int, string) {
	var usage *usageError
	var dir *noDirectoryError
	var setting *wire.SettingError
	switch {
	case errors.As(err, &usage), errors.As(err, &dir), errors.As(err, &setting):
		return exitUsage, ""
	case errors.Is(err, plan.ErrNoSuchImage):
		return exitUsage, "\"cairn plan --offline\" lists the images"
	case errors.Is(err, registry.ErrAddress):
		return exitUsage, "an address is HOST[:PORT]/PATH, for instance registry.example.com/shop/stages"
	case errors.Is(err, daemonctl.ErrNoHome):
		return exitUsage, "set HOME, or give both flags"
	}
	return 0, ""
}

func classifyProject(err error) (int, string) {
	var cfg *config.Errors
	var none *wire.NoConfigError
	var configured *wire.ConfiguredError
	var locked *plan.LockError
	var src *source.Error
	switch {
	case errors.As(err, &cfg):
		return exitConfig, "docs/reference/configuration.md says what the file may hold"
	case errors.As(err, &none), errors.As(err, &configured):
		return exitConfig, ""
	case errors.As(err, &locked):
		return exitConfig, "take the committed version (git checkout cairn.lock), or delete the file and run \"cairn lock\""
	case errors.As(err, &src):
		return exitSource, sourceHint(src)
	}
	return 0, ""
}

// sourceHint is for errors of git that have none of their own.
func sourceHint(e *source.Error) string {
	switch {
	case e.Hint != "":
		return e.Hint
	case errors.Is(e, source.ErrUnknownRevision):
		return "name a commit, branch or tag that is in this clone"
	case errors.Is(e, source.ErrNoWorkTree):
		return "--dev needs a clone with a work tree"
	case errors.Is(e, source.ErrChanged):
		return "run it again when nothing writes to the work tree"
	default:
		return ""
	}
}

// lostHint is for a storage that somebody else has deleted from.
const lostHint = "build on a host that has the layer in its local cache, or delete that stage and what was built on it from the storage and build again"

func classifyBuild(err error) (int, string) {
	var foreign *build.ForeignStorageError
	var exit *engine.ExitError
	var missing *engine.MissingPathError
	var kept *build.KeptError
	var lost *build.LostBlobError
	var wanted *build.NotOfferedError
	switch {
	case errors.As(err, &wanted):
		return exitUsage, offerHint(wanted.Mount)
	case errors.As(err, &exit):
		return exitCommand, exitHint(exit.Code)
	case errors.As(err, &missing):
		return exitConfig, "correct \"add\" of the import, or have a command of the other image make the path"
	case errors.As(err, &foreign) && foreign.What == "project":
		return exitStorage, "give each project a repository of its own with --stages-storage"
	case errors.As(err, &foreign) && foreign.What == "ledger":
		return exitLedger, "all runners that publish into one storage must use one --synchronization; if the ledger was deleted and made again, \"cairn synchronization adopt\" has the storage accept the new one"
	case errors.As(err, &foreign):
		return exitStorage, "use the version of cairn that wrote it"
	case errors.As(err, &lost) && errors.As(err, &kept):
		return exitKept, lostHint
	case errors.As(err, &lost):
		return exitStorage, lostHint
	case errors.As(err, &kept) && errors.Is(err, synchronization.ErrUnavailable):
		return exitKept, "run the build again when the ledger answers: nothing that was made is lost; --unsynchronized=keep-local builds on without it"
	case errors.As(err, &kept):
		return exitKept, "run the build again when the cause is gone: nothing that was made is lost"
	}
	return 0, ""
}

// offerHint says how what a mount needs is given.
func offerHint(m stages.Mount) string {
	if m.Type == stages.MountSSH {
		return fmt.Sprintf("give it with --ssh %s for the agent that SSH_AUTH_SOCK names, or --ssh %s=SOCKET or --ssh %s=KEYFILE", m.ID, m.ID, m.ID)
	}
	return fmt.Sprintf("give it with --secret id=%s,src=FILE or --secret id=%s,env=VARIABLE", m.ID, m.ID)
}

// exitHint explains the exit codes that shells give a meaning.
func exitHint(code int) string {
	switch code {
	case 126:
		return "a program could not be run: is it executable, also in git (git update-index --chmod=+x)?"
	case 127:
		return "a program was not found: install it in an earlier command, or choose a base that has it"
	case 137:
		return "it was killed (SIGKILL), most often because memory ran out: try --parallel 1"
	default:
		return "its last lines say why; a command sees only files that stageDependencies declares for its stage"
	}
}

// classifyImage is about a configuration that does not fit the image that it is
// built upon.
func classifyImage(err error) (int, string) {
	for _, c := range []struct {
		is   error
		hint string
	}{
		{assemble.ErrPlatform, "choose a base that is made for the platform, or change platform in cairn.yaml"},
		{assemble.ErrUnsupported, "choose another base"},
		{assemble.ErrLayer, "choose another base, or have this one built again"},
		{assemble.ErrTooManyLayers, "put fewer mappings and stages into the image, or choose a base with fewer layers"},
		{assemble.ErrUnknownName, "owner and group are looked up in the image below: add the name there, or write a number"},
		{assemble.ErrIsDirectory, "choose another target for the file with \"to\""},
		{assemble.ErrNotDirectory, "choose another target with \"to\""},
		{assemble.ErrLinkLoop, "choose another target with \"to\""},
		{assemble.ErrReserved, "exclude the file with excludePaths"},
	} {
		if errors.Is(err, c.is) {
			return exitConfig, c.hint
		}
	}
	return 0, ""
}

func classifyLedger(err error) (int, string) {
	var elsewhere *synchronization.BoundElsewhereError
	var nonsense *synchronization.BadEntryError
	var key *synchronization.BadKeyError
	var wait *build.WaitError
	var format *synchronization.FormatError
	var dir *wire.LedgerDirError
	switch {
	case errors.As(err, &dir):
		return exitLedger, ""
	case errors.As(err, &elsewhere):
		if strings.HasPrefix(elsewhere.Wanted, wire.Local) {
			return exitLedger, "the " + wire.Local + " stages of each host, or of each --cache-dir, need a ledger of their own: leave --synchronization out, or share a registry; docs/switching.md tells more"
		}
		return exitLedger, "use the storage that the ledger belongs to, or another ledger"
	case errors.As(err, &format):
		return exitLedger, "use the version of cairn that made it"
	case errors.As(err, &wait):
		return exitLedger, "\"cairn locks ls\" shows who holds it; wait longer with --wait-timeout, or end that runner"
	case errors.As(err, &key):
		return exitLedger, badKeyHint(key)
	case errors.As(err, &nonsense):
		return exitLedger, fmt.Sprintf("something else than cairn has written there: cairn locks break %s --reason \"nonsense in the ledger\"", nonsense.Digest.Hex())
	case errors.Is(err, synchronization.ErrUnavailable):
		return exitLedger, "the build goes on without publishing with --unsynchronized=keep-local"
	case errors.Is(err, lock.ErrLost):
		return exitLedger, "run the build again: what was finished is kept"
	case errors.Is(err, synchronization.ErrClosed):
		return exitLedger, "it is closed by hand, or by a switch that was given up; \"cairn stages switch-from-local --status\" on the host that was switched tells"
	case errors.Is(err, synchronization.ErrBadEntry):
		return exitLedger, "something else than cairn has written there"
	}
	return classifyCluster(err)
}

// badKeyHint says how the ledger is mended, and what that means for the promise.
func badKeyHint(e *synchronization.BadKeyError) string {
	hint := fmt.Sprintf("something else than cairn has written there: remove the key %q from %s (\"kubectl edit configmap\", or its file in the directory of a local ledger), and the next run makes it anew", e.Key, e.Object)
	if !e.Loses {
		return hint + "; nothing is lost by that"
	}
	return hint + fmt.Sprintf("; this counts as a loss: for %.0f minutes after it two runners may publish the same stage differently", e.Delta.Minutes())
}

// classifyCluster is for errors that bring their own hints, if any.
func classifyCluster(err error) (int, string) {
	var none *wire.NoClusterError
	var full *wire.ClusterFullError
	var failed *wire.ClusterError
	if errors.As(err, &none) || errors.As(err, &full) || errors.As(err, &failed) {
		return exitLedger, ""
	}
	return 0, ""
}

func classifySync(err error) (int, string) {
	var skipped *skippedError
	var owner *transfer.OwnerError
	var taken *transfer.InUseError
	var used *wire.SourceInUseError
	var same *wire.SameStorageError
	switch {
	case errors.As(err, &skipped):
		return exitPartly, ""
	case errors.As(err, &same):
		return exitUsage, ""
	case errors.As(err, &used):
		return exitStorage, ""
	case errors.As(err, &owner) && owner.Format != "":
		return exitStorage, "use the version of cairn that wrote it"
	case errors.As(err, &owner):
		return exitStorage, "give each project a repository of its own"
	case errors.As(err, &taken):
		return exitStorage, "run the sync again: it goes on under the storage's ledger (--synchronization); a layout of builds is addressed as :local with its --cache-dir"
	case errors.Is(err, wire.ErrNoProject):
		return exitUsage, "run it in the project's directory, with --from :local or --only-current-build, or build into the source first"
	}
	return 0, ""
}

func classifyStorage(err error) (int, string) {
	switch {
	case errors.Is(err, errStagesBroken):
		return exitStorage, "what to do stands with each problem; \"cairn stages verify --repair\" brings back or withdraws what it can"
	case errors.Is(err, errNotWithdrawn):
		return exitStorage, "the reason stands with each name; what was published lately can be withdrawn in a quarter of an hour"
	}
	var e *storage.Error
	if !errors.As(err, &e) {
		return 0, ""
	}
	if e.Storage == wire.Local {
		return exitStorage, localHint(e.Class)
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(e, &certificate) {
		return exitStorage, "name the authority that signed the registry's certificate with --registry-ca, or have its certificate renewed"
	}
	hints := map[error]string{
		storage.ErrNotFound:     "check name, tag and platform; a repository that needs \"docker login\" may look as if it did not exist",
		storage.ErrUnauthorized: "log in to the registry (docker login), or check the credentials in the Docker configuration",
		storage.ErrDenied:       "the credentials lack a permission for this repository",
		storage.ErrRateLimited:  "the registry limits requests; try again later, or log in for a higher limit",
		storage.ErrTransient:    "the registry could not be reached or is overloaded; check the address, or try again later",
		storage.ErrCorrupt:      "the registry, or something on the way, returned something else than was stored",
		storage.ErrExists:       "the registry keeps tags from being changed: let it do so for tags that Cairn writes once, not for others",
		storage.ErrUnsupported:  "\"cairn storage check REPOSITORY\" tells what the registry cannot do",
		storage.ErrTooLarge:     "the registry refuses a blob or manifest of this size",
		storage.ErrFull:         "free space on the device that holds it",
		storage.ErrInvalid:      "\"cairn storage check REPOSITORY\" tells what the registry cannot do",
	}
	return exitStorage, hints[e.Class]
}

func localHint(class error) string {
	switch {
	case errors.Is(class, storage.ErrFull):
		return "free space on the device that holds it, or name another directory with --cache-dir"
	case errors.Is(class, storage.ErrCorrupt):
		return "remove the project's directory below stages in --cache-dir (default ~/.cache/cairn): stages and their ledger are made again"
	default:
		return "name a directory that may be written with --cache-dir"
	}
}

func classifyExport(err error) (int, string) {
	var absent *notBuiltError
	switch {
	case errors.Is(err, transfer.ErrExists):
		return exitFailure, "remove it, or choose another target"
	case errors.As(err, &absent):
		return exitFailure, ""
	case errors.Is(err, exec.ErrNotFound):
		return exitFailure, "install it, or export with --to tar:FILE"
	}
	return 0, ""
}

// classifyDockerfile is for what is wrong with a Dockerfile itself.
func classifyDockerfile(err error) (int, string) {
	var df *dockerfile.Error
	if errors.As(err, &df) {
		return exitConfig, df.Hint
	}
	return 0, ""
}

// classifyOperation is for failures of the ledger whose cause has no class of its own.
func classifyOperation(err error) (int, string) {
	var op *synchronization.Error
	if errors.As(err, &op) {
		return exitLedger, "\"cairn locks ls\" shows what the ledger holds; run the build again: what was finished is kept"
	}
	return 0, ""
}

func classifyEngine(err error) (int, string) {
	var start *daemonctl.StartError
	var protocol *daemonctl.ProtocolError
	var path *daemonctl.PathError
	var platform *engine.PlatformError
	var stage *build.StageError
	switch {
	case errors.As(err, &platform):
		return exitEngine, fmt.Sprintf("name an engine for it with --engine %s=ADDRESS, or have this one emulate the platform (binfmt_misc); docs/engines.md says how", platform.Want)
	case errors.Is(err, daemonctl.ErrNotHere):
		return exitEngine, "name a BuildKit that runs elsewhere with --engine; docs/engines.md says how"
	case errors.Is(err, daemonctl.ErrNoRootless):
		return exitEngine, "install rootlesskit and uidmap, or name a BuildKit with --engine; docs/engines.md says how"
	case errors.Is(err, daemonctl.ErrNoDaemon):
		return exitEngine, "install cairnd beside cairn, or name a BuildKit with --engine"
	case errors.As(err, &start), errors.As(err, &protocol):
		return exitEngine, "the lines above are the end of the daemon's log"
	case errors.As(err, &path):
		return exitEngine, ""
	case errors.Is(err, engine.ErrEngineGone):
		return exitEngine, "run the build again; with --engine, check its address"
	case errors.As(err, &stage) && stage.Stage.NeedsEngine():
		return exitEngine, "the logs of the daemon are below --state-dir, or in /var/lib/cairn for root"
	}
	return 0, ""
}
