package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cairnbuild/cairn/hack/runner"
)

// sections are those of the commands of an image; with from and source that is
// six stages.
func sections() []string { return []string{"beforeInstall", "install", "beforeSetup", "setup"} }

// project is what the runners of a round build.
type project struct {
	name string
	dir  string
	// commands is how many there are.
	commands int
}

// newProject makes a repository of images whose commands give another result each
// time that they run, and count how often they do. Nothing is shared between two
// images, and nothing with another project. Each command hashes work MiB on its way.
func (l *lab) newProject(ctx context.Context, name string, images, work int) (project, error) {
	p := project{name: name, dir: filepath.Join(l.dir, "p", name), commands: images * len(sections())}
	repo, err := runner.NewRepository(ctx, p.dir)
	if err != nil {
		return p, err
	}
	var file strings.Builder
	fmt.Fprintf(&file, "project: %s\nconfigVersion: 1\n", name)
	for i := range images {
		fmt.Fprintf(&file, "---\nimage: i%d\nfrom: %s\nfromCacheVersion: %s-%d\n", i, l.base, name, i)
		fmt.Fprintf(&file, "git:\n- add: /src\n  to: /src\n  stageDependencies: {install: [a]}\nshell:\n")
		for _, s := range sections() {
			fmt.Fprintf(&file, "  %s:\n  - cat /proc/sys/kernel/random/uuid > /%s\n", s, s)
			if work > 0 {
				fmt.Fprintf(&file, "  - dd if=/dev/zero bs=1M count=%d 2>/dev/null | sha256sum >> /%s\n", work, s)
			}
			fmt.Fprintf(&file, "  - wget -q -O /dev/null %s/%s\n", l.counter.URL(), commandName(name, fmt.Sprint("i", i), s))
		}
	}
	for path, content := range map[string]string{"cairn.yaml": file.String(), "src/a": "a\n", "src/b": name + "\n"} {
		if err := repo.Write(path, []byte(content)); err != nil {
			return p, err
		}
	}
	if err := repo.Commit(ctx, "Begin"); err != nil {
		return p, err
	}
	pin := exec.CommandContext(ctx, filepath.Join(l.bin, "cairn"), "lock", "--dir", p.dir)
	pin.Env = l.environ(l.dir)
	if out, err := pin.CombinedOutput(); err != nil {
		return p, fmt.Errorf("cairn lock: %w: %s", err, out)
	}
	return p, repo.Commit(ctx, "Pin the base")
}

// commandName is what a stage's commands count as.
func commandName(project, image, section string) string {
	return project + "/" + image + "/" + section
}

// environ is the environment of a cairn that knows of nothing but a home.
func (l *lab) environ(home string) []string {
	return []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + l.dir, "CI=true"}
}
