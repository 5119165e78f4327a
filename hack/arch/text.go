package arch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	// home matches directories of people and of CI machines. Paths inside of
	// images, such as /home/app, are not among them.
	home = regexp.MustCompile(`/Users/[A-Za-z]+/|/home/(runner|ubuntu|user|dev)/`)
	skip = regexp.MustCompile(`\b[tbf]\.(Skip|Skipf|SkipNow)\(`)
)

// Files returns the paths of all files of the tree in dir that are not ignored.
func Files(ctx context.Context, dir string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"), nil
}

// Text reports files below dir that name a place on one machine (dir itself or
// somebody's home) and tests that skip themselves.
func Text(dir string, files []string) ([]string, error) {
	var wrong []string
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted in the work tree and not yet in the index
		}
		if err != nil {
			return nil, err
		}
		for i, line := range bytes.Split(b, []byte("\n")) {
			if w := textOf(dir, name, line); w != "" {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s", name, i+1, w))
			}
		}
	}
	return wrong, nil
}

func textOf(dir, name string, line []byte) string {
	switch {
	case bytes.Contains(line, []byte(dir+"/")):
		return "it names the directory of this very checkout"
	case home.Match(line) && !strings.HasPrefix(name, "hack/arch/"):
		return "it names a directory of one machine"
	case strings.HasSuffix(name, "_test.go") && skip.Match(line) && !strings.HasPrefix(name, "hack/arch/"):
		return "a test that is skipped where it should run is a failure"
	default:
		return ""
	}
}
