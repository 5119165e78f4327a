package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/registry"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

// run runs a command line in this process.
func run(ctx context.Context, env map[string]string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = Run(ctx, Process{Args: args, In: strings.NewReader(""), Out: &o, Err: &e, Env: func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}})
	return code, o.String(), e.String()
}

func TestACommandLineRunsInThisProcess(t *testing.T) {
	code, out, errs := run(t.Context(), nil, "version")
	if code != exitOK || !strings.HasPrefix(out, "cairn dev ") || errs != "" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	code, out, _ = run(t.Context(), map[string]string{"CAIRN_OUTPUT": "json"}, "version")
	if code != exitOK || !json.Valid([]byte(out)) {
		t.Errorf("%d, %q", code, out)
	}
	// A flag goes before its variable.
	code, out, _ = run(t.Context(), map[string]string{"CAIRN_OUTPUT": "nonsense"}, "version", "--output", "text")
	if code != exitOK || !strings.HasPrefix(out, "cairn dev ") {
		t.Errorf("%d, %q", code, out)
	}
	// An empty variable is none.
	if code, _, errs = run(t.Context(), map[string]string{"CAIRN_DEV": ""}, "version"); code != exitOK {
		t.Errorf("%d, %q", code, errs)
	}
}

func TestEveryErrorHasItsExitCodeAndAHint(t *testing.T) {
	stored := func(class error) error {
		return fmt.Errorf("base x: %w", &storage.Error{Op: "fetch", Storage: "r/x", Class: class})
	}
	local := func(class error) error {
		return &storage.Error{Op: "open", Storage: wire.Local, Class: class, Err: fs.ErrPermission}
	}
	inStage := func(s *stages.Stage, err error) error { return &build.StageError{Image: "a", Stage: s, Err: err} }
	commands := stage("a", stages.KindInstall)
	failed := &engine.ExitError{Job: &engine.Job{Name: "a/install"}, Code: 1}
	for name, tc := range map[string]struct {
		err  error
		code int
	}{
		"a foreign platform":          {inStage(commands, &engine.PlatformError{Engine: "unix:///x", Want: "linux/arm64"}), exitEngine},
		"no rootlesskit":              {inStage(commands, daemonctl.ErrNoRootless), exitEngine},
		"no daemon on this system":    {inStage(commands, daemonctl.ErrNotHere), exitEngine},
		"usage":                       {&usageError{"cairn build", errors.New("x")}, exitUsage},
		"no directory":                {&noDirectoryError{"/x"}, exitUsage},
		"no such image":               {fmt.Errorf("%w: x", plan.ErrNoSuchImage), exitUsage},
		"a bad address":               {fmt.Errorf("%w: x", registry.ErrAddress), exitUsage},
		"no home":                     {daemonctl.ErrNoHome, exitUsage},
		"a bad configuration":         {&config.Errors{List: []*config.Error{{File: "cairn.yaml", Line: 1, Message: "x"}}}, exitConfig},
		"no configuration":            {&wire.NoConfigError{Dir: "/x", Tree: "HEAD"}, exitConfig},
		"a bad lock file":             {&plan.LockError{Err: errors.New("x")}, exitConfig},
		"no commit of that name":      {&source.Error{Class: source.ErrUnknownRevision}, exitSource},
		"no work tree":                {&source.Error{Class: source.ErrNoWorkTree}, exitSource},
		"a change while reading":      {&source.Error{Class: source.ErrChanged}, exitSource},
		"a failed command":            {inStage(commands, failed), exitCommand},
		"kept beside a failed one":    {&build.KeptError{Err: inStage(commands, failed)}, exitCommand},
		"an import of nothing":        {&build.KeptError{Err: inStage(stage("a", stages.KindImportAfterInstall), &engine.MissingPathError{Path: "/x"})}, exitConfig},
		"a missing program":           {&engine.ExitError{Job: failed.Job, Code: 127}, exitCommand},
		"no permission to run":        {&engine.ExitError{Job: failed.Job, Code: 126}, exitCommand},
		"killed":                      {&engine.ExitError{Job: failed.Job, Code: 137}, exitCommand},
		"another project's storage":   {&build.ForeignStorageError{What: "project"}, exitStorage},
		"another ledger's storage":    {&build.ForeignStorageError{What: "ledger"}, exitLedger},
		"a newer storage":             {&build.ForeignStorageError{What: "format"}, exitStorage},
		"kept":                        {&build.KeptError{Err: stored(storage.ErrTransient)}, exitKept},
		"another platform":            {inStage(stage("a", stages.KindFrom), assemble.ErrPlatform), exitConfig},
		"an odd base":                 {assemble.ErrUnsupported, exitConfig},
		"a broken layer":              {assemble.ErrLayer, exitConfig},
		"too many layers":             {assemble.ErrTooManyLayers, exitConfig},
		"an unknown owner":            {assemble.ErrUnknownName, exitConfig},
		"a directory in the way":      {assemble.ErrIsDirectory, exitConfig},
		"a file in the way":           {assemble.ErrNotDirectory, exitConfig},
		"a loop of links":             {assemble.ErrLinkLoop, exitConfig},
		"a reserved name":             {assemble.ErrReserved, exitConfig},
		"a ledger of another storage": {&synchronization.BoundElsewhereError{}, exitLedger},
		"a newer ledger":              {&synchronization.FormatError{}, exitLedger},
		"a ledger's directory":        {&wire.LedgerDirError{Err: fs.ErrPermission}, exitLedger},
		"no ledger":                   {synchronization.ErrUnavailable, exitLedger},
		"a lost session":              {lock.ErrLost, exitLedger},
		"a closed ledger":             {synchronization.ErrClosed, exitLedger},
		"a full ledger":               {&synchronization.Error{Op: "acquire 1 stages", Err: &kubernetes.FullError{Shard: "cairn-a.0"}}, exitLedger},
		"an odd failure of a ledger":  {inStage(commands, &synchronization.Error{Op: "decide stage x", Err: context.Canceled}), exitLedger},
		"a storage below a sweep":     {&synchronization.Error{Op: "sweep", Err: stored(storage.ErrDenied)}, exitStorage},
		"a broken ledger":             {synchronization.ErrBadEntry, exitLedger},
		"a ledger to look at":         {&wire.AwayError{Err: synchronization.ErrUnavailable}, exitLedger},
		"a key that is nonsense":      {&synchronization.BadKeyError{Err: fs.ErrInvalid}, exitLedger},
		"not found":                   {stored(storage.ErrNotFound), exitStorage},
		"unauthorized":                {stored(storage.ErrUnauthorized), exitStorage},
		"denied":                      {stored(storage.ErrDenied), exitStorage},
		"rate limited":                {stored(storage.ErrRateLimited), exitStorage},
		"unreachable":                 {inStage(commands, stored(storage.ErrTransient)), exitStorage},
		"corrupt":                     {stored(storage.ErrCorrupt), exitStorage},
		"immutable":                   {stored(storage.ErrExists), exitStorage},
		"unsupported":                 {stored(storage.ErrUnsupported), exitStorage},
		"too large":                   {stored(storage.ErrTooLarge), exitStorage},
		"refused":                     {stored(storage.ErrInvalid), exitStorage},
		"a full disk":                 {local(storage.ErrFull), exitStorage},
		"a directory of another user": {local(storage.ErrDenied), exitStorage},
		"a damaged local storage":     {local(storage.ErrCorrupt), exitStorage},
		"an export over something":    {transfer.ErrExists, exitFailure},
		"an image that is not built":  {&notBuiltError{"a", ":local"}, exitFailure},
		"no docker":                   {fmt.Errorf("docker load: %w", exec.ErrNotFound), exitFailure},
		"no daemon":                   {inStage(commands, daemonctl.ErrNoDaemon), exitEngine},
		"a daemon that ends":          {&daemonctl.StartError{Err: errors.New("x")}, exitEngine},
		"a path for no daemon":        {inStage(commands, daemonctl.Paths{Socket: "/" + strings.Repeat("x", 200)}.Check()), exitEngine},
		"another daemon":              {&daemonctl.ProtocolError{}, exitEngine},
		"a dead engine":               {inStage(commands, engine.ErrEngineGone), exitEngine},
		"a failing engine":            {inStage(commands, errors.New("x")), exitEngine},
	} {
		t.Run(name, func(t *testing.T) {
			f := failureOf(t.Context(), tc.err)
			if f.Exit != tc.code || f.Hint == "" || f.Message == "" {
				t.Errorf("got %+v, want the code %d and a hint", f, tc.code)
			}
		})
	}
	if f := failureOf(t.Context(), errors.New("x")); f.Exit != exitFailure {
		t.Errorf("an unknown error gives %+v", f)
	}
}

func TestAnInterruptionCountsMoreThanWhatCameOfIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	f := failureOf(ctx, fmt.Errorf("git: %w", errors.New("signal: interrupt")))
	if f.Exit != exitInterrupted || f.Message != "interrupted" {
		t.Errorf("got %+v", f)
	}
}

func TestWhatIsShownOfAnErrorCannotSteerTheTerminal(t *testing.T) {
	var b bytes.Buffer
	f := failureOf(t.Context(), &usageError{"cairn", errors.New("bad \x1b[2Jname\u202e\nsecond line")})
	f.write(&b)
	if want := "error: bad name\uFFFD\n  second line\nhint: see \"cairn --help\"\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}
