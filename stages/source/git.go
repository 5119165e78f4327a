package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// maxStderr bounds what is kept of git's complaints, in bytes.
const maxStderr = 4 << 10

// killDelay is how long the pipes of a git that was killed may stay open; its
// own children (a fetch into a partial clone) can hold them.
const killDelay = 2 * time.Second

// fixedOptions stand before every git command. They keep the repository's
// configuration from running programs (file system monitor, hooks) and take
// paths as they are.
func fixedOptions() []string {
	return []string{
		"--no-pager", "--literal-pathspecs",
		"-c", "core.fsmonitor=false",
		"-c", "core.hooksPath=" + os.DevNull,
		"-c", "submodule.recurse=false",
	}
}

// git runs git commands in one directory.
type git struct {
	dir string
	// options stand after fixedOptions.
	options []string
	// environ is added to the environment.
	environ []string
	// detached has git, and what it runs, find no terminal to ask a person on.
	detached bool
}

// command returns a git command that dies with ctx and whose standard error
// goes to the returned buffer.
func (g git) command(ctx context.Context, args ...string) (*exec.Cmd, *tail) {
	all := slices.Concat(fixedOptions(), g.options, args)
	cmd := exec.CommandContext(ctx, "git", all...)
	cmd.Dir = g.dir
	cmd.Env = append(gitEnvironment(os.Environ()), g.environ...)
	if g.detached {
		detach(cmd)
	}
	cmd.WaitDelay = killDelay
	stderr := new(tail)
	cmd.Stderr = stderr
	return cmd, stderr
}

// output runs a git command whose answer is small.
func (g git) output(ctx context.Context, args ...string) ([]byte, error) {
	cmd, stderr := g.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.Bytes(), gitError(ctx, args[0], err, stderr)
}

// stream runs a git command and has read take its standard output. When read
// fails the command is ended.
func (g git) stream(ctx context.Context, read func(io.Reader) error, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, stderr := g.command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return gitError(ctx, args[0], err, stderr)
	}
	readErr := read(out)
	if readErr != nil {
		cancel()
	}
	err = cmd.Wait()
	// A git that dies leaves a listing that ends early: its own words come first.
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return gitError(ctx, args[0], err, stderr)
	}
	if readErr != nil {
		return readErr
	}
	return gitError(ctx, args[0], err, stderr)
}

// gitError gives the error of a git command its class.
func gitError(ctx context.Context, command string, err error, stderr *tail) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("git %s: %w", command, cause)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return &Error{Op: "run", Subject: "git", Class: ErrGitMissing, Hint: "install git 2.31 or newer and have it on PATH"}
	}
	if text := stderr.String(); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return &Error{Op: "run git", Subject: command, Class: ErrGit, Err: err}
}

// exited reports whether err says that git ran and ended with an exit code
// other than 0, which is its answer "no".
func exited(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Exited()
}

// gitEnvironment returns the environment of a git process, given that of this one.
func gitEnvironment(environ []string) []string {
	out := make([]string, 0, len(environ)+4)
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "LC_ALL" || name == "LANGUAGE":
		case strings.HasPrefix(name, "GIT_") && !keepVariable(name):
		default:
			out = append(out, kv)
		}
	}
	return append(out,
		"LC_ALL=C",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_OPTIONAL_LOCKS=0",
		// Replacements are local to a clone: two machines would disagree.
		"GIT_NO_REPLACE_OBJECTS=1",
	)
}

// keepVariable reports whether one of git's own variables is passed on: where the
// user's configuration is (safe.directory counts only from there), where
// discovery ends, and how a partial clone is fetched. All others of git's are
// dropped, since they name another repository, index or object store, as in a hook.
func keepVariable(name string) bool {
	switch name {
	case "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_COUNT",
		"GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_EXEC_PATH",
		"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS":
		return true
	}
	return strings.HasPrefix(name, "GIT_CONFIG_KEY_") || strings.HasPrefix(name, "GIT_CONFIG_VALUE_")
}

// tail keeps the last maxStderr bytes written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxStderr; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }
