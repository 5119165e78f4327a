package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/dockerfile"
	"github.com/cairnbuild/cairn/stages/source"
)

// Input names for a [Difference] of a stage that a Dockerfile makes.
const (
	// InputArg is the value of an ARG that some instruction can see.
	InputArg = "arg"
	// InputInstruction is an instruction; the subject is its place, FILE:LINE.
	InputInstruction = "instruction"
)

// dockerfile compares two Dockerfiles as their recipes have them.
func (e *explainer) dockerfile(old, now *stages.Stage) error {
	a, b := old.Recipe.Dockerfile, now.Recipe.Dockerfile
	if a == nil || b == nil || old.Dockerfile == nil || now.Dockerfile == nil {
		return nil
	}
	e.add(InputSettings, "target", a.Target, b.Target)
	e.add(InputSettings, "network", a.Network, b.Network)
	e.add(InputSettings, "addHost", strings.Join(a.AddHosts, " "), strings.Join(b.AddHosts, " "))
	e.add(InputSettings, "secrets", strings.Join(a.Secrets, " "), strings.Join(b.Secrets, " "))
	e.add(InputSettings, "ssh", strings.Join(a.SSH, " "), strings.Join(b.SSH, " "))
	e.add(InputSettings, "BUILDPLATFORM", string(a.BuildPlatform), string(b.BuildPlatform))
	e.args(a.Args, b.Args)
	e.bases(old, now)
	e.instructions(linesOf(old), linesOf(now))
	return e.context(old.Dockerfile, now.Dockerfile)
}

func (e *explainer) args(a, b map[string]string) {
	names := make([]string, 0, len(a)+len(b))
	for k := range a {
		names = append(names, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		e.add(InputArg, k, a[k], b[k])
	}
}

// bases compares the images that have the same place among the bases.
func (e *explainer) bases(old, now *stages.Stage) {
	a, b := old.Recipe.Dockerfile.Bases, now.Recipe.Dockerfile.Bases
	for i := range max(len(a), len(b)) {
		name := at(now.Dockerfile.Bases, i).Name
		if name == "" {
			name = at(old.Dockerfile.Bases, i).Name
		}
		e.add(InputBase, name, at(a, i).Digest, at(b, i).Digest)
		if i < len(a) && i < len(b) {
			e.add(InputPlatform, name, string(a[i].Platform), string(b[i].Platform))
		}
	}
}

// dockerLine is an instruction and its place.
type dockerLine struct{ place, text string }

// linesOf returns the instructions that count, in the order of the file.
func linesOf(s *stages.Stage) []dockerLine {
	var out []dockerLine
	d, src := s.Recipe.Dockerfile, s.Dockerfile
	add := func(texts []string, lines []int) {
		for i, text := range texts {
			out = append(out, dockerLine{fmt.Sprintf("%s:%d", src.Path, at(lines, i)), text})
		}
	}
	add(d.Globals, src.GlobalLines)
	for i, st := range d.Stages {
		from := st.From
		if n := 0; scan(from, "base %d", &n) {
			from = at(src.Bases, n).Name
		}
		out = append(out, dockerLine{src.Path, "FROM " + from})
		add(st.Instructions, at(src.Lines, i))
	}
	return out
}

func scan(s, format string, into *int) bool {
	n, err := fmt.Sscanf(s, format, into)
	return err == nil && n == 1
}

// instructions compares two lists. What is the same at the beginning and at the end
// is left out; what is between is told pair by pair.
func (e *explainer) instructions(a, b []dockerLine) {
	same := func(x, y dockerLine) bool { return x.text == y.text }
	for len(a) > 0 && len(b) > 0 && same(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && same(a[len(a)-1], b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	for i := range max(len(a), len(b)) {
		place := at(b, i).place
		if place == "" {
			place = at(a, i).place
		}
		e.add(InputInstruction, place, at(a, i).text, at(b, i).text)
	}
}

// context compares the files that instructions can take, path by path.
func (e *explainer) context(old, now *stages.DockerfileSource) error {
	a, err := taken(e.before.Files, old)
	if err != nil {
		return err
	}
	b, err := taken(e.after.Files, now)
	if err != nil {
		return err
	}
	e.placed(a, b)
	return nil
}

// taken lists the files of a context that instructions can take, by their paths in
// the project.
func taken(files Lister, d *stages.DockerfileSource) ([]placedFile, error) {
	if len(d.Files) == 0 {
		return nil, nil
	}
	all, err := files.Files(dockerfile.Selection(d.Context))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(f source.File) bool {
		_, ok := slices.BinarySearch(d.Files, f.Path)
		return !ok
	})
	out := make([]placedFile, len(all))
	for i, f := range all {
		out[i] = placedFile{path.Join(d.Context, f.Path), fmt.Sprintf("%s %s", f.Mode, f.Object)}
	}
	return out, nil
}
