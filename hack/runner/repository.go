package runner

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repository is a git repository in a directory.
type Repository struct{ Dir string }

// NewRepository makes dir a git repository; files that are in it are not yet committed.
func NewRepository(ctx context.Context, dir string) (Repository, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Repository{}, err
	}
	r := Repository{Dir: dir}
	return r, r.git(ctx, "init", "--quiet", "--initial-branch=main")
}

// Write puts a file into the work tree.
func (r Repository) Write(name string, content []byte) error {
	path := filepath.Join(r.Dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// Append adds text to the end of a file of the work tree.
func (r Repository) Append(name, text string) error {
	f, err := os.OpenFile(filepath.Join(r.Dir, filepath.FromSlash(name)), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Commit commits the whole work tree.
func (r Repository) Commit(ctx context.Context, message string) error {
	if err := r.git(ctx, "add", "--all"); err != nil {
		return err
	}
	return r.git(ctx, "commit", "--quiet", "--message", message)
}

func (r Repository) git(ctx context.Context, args ...string) error {
	_, err := r.Git(ctx, args...)
	return err
}

// Git runs a command of git in the repository, without the user's own settings, and
// returns what it prints, without the space around it.
func (r Repository) Git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", r.Dir, "-c", "gc.auto=0",
		"-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
