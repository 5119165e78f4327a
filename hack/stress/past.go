package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cairnbuild/cairn/hack/history"
	"github.com/cairnbuild/cairn/hack/runner"
)

// past is a project with a history of commits, of which branches name some.
type past struct {
	project project
	// work has all commits, origin is what cleaners fetch branches from.
	work, origin runner.Repository
	commits      []commit
	// sweepers are the hosts of cleaners, with a clone each.
	sweepers []*host
}

// commit is one commit, checked out in a directory of its own.
type commit struct {
	id, dir string
	// plan is what planning it gives.
	plan *history.Report
}

// branches are those of origin. The first is always there.
func branches() []string { return []string{"main", "feature", "hotfix"} }

// pastCommands are the sections of an image that has a past; with from and source that
// is four stages.
func pastCommands() []string { return []string{"beforeInstall", "install"} }

// newPast makes six commits. They have some stages in common: each changes the last
// stage of all images, every second one what an install stage depends on, and the
// later ones the first image from the ground up.
func (l *lab) newPast(ctx context.Context, name string, s shape) (*past, error) {
	p := &past{project: project{name: name, dir: filepath.Join(l.dir, "p", name)}}
	var err error
	if p.work, err = runner.NewRepository(ctx, filepath.Join(p.project.dir, "work")); err != nil {
		return nil, err
	}
	for n := range 6 {
		if n == 4 { // the last two stand beside the others
			if _, err := p.work.Git(ctx, "checkout", "--quiet", "-b", "side", p.commits[1].id); err != nil {
				return nil, err
			}
		}
		if err := p.commit(ctx, l, s, n); err != nil {
			return nil, err
		}
	}
	err = p.share(ctx, l)
	return p, err
}

// commit makes the nth commit, and plans it.
func (p *past) commit(ctx context.Context, l *lab, s shape, n int) error {
	name := p.project.name
	for path, content := range map[string]string{
		"cairn.yaml": p.configuration(l, s, n), "src/a": fmt.Sprint(name, n%2), "src/b": fmt.Sprint(name, n),
	} {
		if err := p.work.Write(path, []byte(content)); err != nil {
			return err
		}
	}
	if _, err := l.cairn(ctx, "lock", "--dir", p.work.Dir); err != nil {
		return err
	}
	if err := p.work.Commit(ctx, fmt.Sprint("Change number ", n)); err != nil {
		return err
	}
	id, err := p.work.Git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	c := commit{id: id, dir: filepath.Join(p.project.dir, fmt.Sprint("c", n))}
	if _, err := p.work.Git(ctx, "worktree", "add", "--quiet", "--detach", c.dir, id); err != nil {
		return err
	}
	out, err := l.cairn(ctx, "plan", "--offline", "--output", "json", "--dir", c.dir)
	if err != nil {
		return err
	}
	c.plan, err = readReport(name, out)
	if err != nil {
		return err
	}
	c.plan.Root = strings.TrimPrefix(c.plan.Root, "sha256:")
	for i := range c.plan.Stages {
		if st := &c.plan.Stages[i]; st.Command != "" {
			st.Command += variant(st.Image, n, strings.HasSuffix(st.Command, "/install"))
		}
	}
	p.commits = append(p.commits, c)
	return nil
}

// variant tells which of the stages of a section the nth commit has.
func variant(image string, n int, withFiles bool) string {
	ground := 0
	if image == "i0" && n >= 3 {
		ground = 1
	}
	if withFiles {
		return fmt.Sprint("-", ground, "-", n%2)
	}
	return fmt.Sprint("-", ground)
}

// configuration keeps nothing but what branches name.
func (p *past) configuration(l *lab, s shape, n int) string {
	var file strings.Builder
	fmt.Fprintf(&file, "project: %s\nconfigVersion: 1\ncleanup:\n  keepBuiltWithinLastNHours: 0\n", p.project.name)
	fmt.Fprintf(&file, "  keepPolicies:\n  - references: {branch: /.*/}\n    imagesPerReference: {last: 1}\n")
	for i := range s.images {
		image := fmt.Sprint("i", i)
		fmt.Fprintf(&file, "---\nimage: %s\nfrom: %s\nfromCacheVersion: %s-%s%s\n", image, l.base, p.project.name, image, variant(image, n, false))
		fmt.Fprintf(&file, "git:\n- add: /src\n  to: /src\n  stageDependencies: {install: [a]}\nshell:\n")
		for _, section := range pastCommands() {
			// Commands take a moment, so that cleaners have somebody to wait for, and marks
			// are there for others to meet.
			fmt.Fprintf(&file, "  %s:\n  - sleep 1\n  - cat /proc/sys/kernel/random/uuid > /%s\n", section, section)
			fmt.Fprintf(&file, "  - wget -q -O /dev/null %s/%s\n", l.counter.URL(),
				commandName(p.project.name, image, section)+variant(image, n, section == "install"))
		}
	}
	return file.String()
}

// share makes what cleaners fetch from, and their clones.
func (p *past) share(ctx context.Context, l *lab) error {
	p.origin.Dir = filepath.Join(p.project.dir, "origin.git")
	if _, err := p.work.Git(ctx, "clone", "--quiet", "--bare", "--branch", "main", p.work.Dir, p.origin.Dir); err != nil {
		return err
	}
	if _, err := p.origin.Git(ctx, "update-ref", "-d", "refs/heads/side"); err != nil {
		return err
	}
	for n := range 2 {
		h := &host{dir: filepath.Join(p.project.dir, fmt.Sprint("sweeper", n))}
		if err := os.MkdirAll(filepath.Join(h.dir, "h"), 0o700); err != nil {
			return err
		}
		if _, err := p.work.Git(ctx, "clone", "--quiet", p.origin.Dir, h.clone()); err != nil {
			return err
		}
		p.sweepers = append(p.sweepers, h)
	}
	return nil
}

// clone is where a host that cleans up has its clone.
func (h *host) clone() string { return filepath.Join(h.dir, "clone") }

// cairn runs a command that asks no server.
func (l *lab) cairn(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(l.bin, "cairn"), args...)
	cmd.Env = l.environ(l.dir)
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cairn %s: %w: %s", args[0], err, messages.String())
	}
	return out, nil
}
