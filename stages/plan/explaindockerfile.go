package plan

import (
	"cmp"
	"fmt"
	"maps"
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

// dockerfile compares two stages of a Dockerfile, groups of instructions apart.
func (e *explainer) dockerfile(old, now *stages.Stage) error {
	if old.Dockerfile == nil || now.Dockerfile == nil {
		return nil
	}
	return e.told(tell(old), tell(now))
}

// groups compares all groups of instructions of two images, those of the build stages
// that they take files of included, as one text: which line a group begins with says
// little when one was put in front of it.
func (e *explainer) groups(old, now *stages.Image) error {
	a, b := groupsOf(old), groupsOf(now)
	if slices.EqualFunc(a, b, func(x, y *stages.Stage) bool { return x.Digest == y.Digest }) {
		return nil
	}
	switch {
	case len(a) == 0:
		e.add(InputStage, "", "", "new")
		return nil
	case len(b) == 0:
		e.add(InputStage, "", "present", "")
		return nil
	}
	n := len(e.out)
	if err := e.told(tell(a...), tell(b...)); err != nil {
		return err
	}
	for i := range max(len(a), len(b)) {
		if x, y := at(a, i), at(b, i); x != nil && y != nil {
			e.add(InputSalt, "", x.Recipe.Salt, y.Recipe.Salt)
			e.add(InputPlatform, "", string(x.Recipe.Platform), string(y.Recipe.Platform))
		}
	}
	if len(e.out) == n {
		e.add(InputParent, "", a[0].Digest.String(), b[0].Digest.String())
	}
	return nil
}

// groupsOf returns the groups of instructions that an image needs, in the order of the file.
func groupsOf(img *stages.Image) []*stages.Stage {
	var out []*stages.Stage
	seen := map[stages.Digest]bool{}
	var add func(s *stages.Stage)
	add = func(s *stages.Stage) {
		if s == nil || seen[s.Digest] {
			return
		}
		seen[s.Digest] = true
		for _, need := range s.Needs() {
			add(need)
		}
		if s.Recipe.Kind == stages.KindInstructions {
			out = append(out, s)
		}
	}
	for _, s := range img.Stages {
		add(s)
	}
	slices.SortStableFunc(out, func(a, b *stages.Stage) int { return cmp.Compare(a.Dockerfile.Part.First, b.Dockerfile.Part.First) })
	return out
}

// toldStages is what some stages of a Dockerfile say together.
type toldStages struct {
	settings map[string]string
	args     map[string]string
	bases    []toldBase
	lines    []dockerLine
	context  string
	files    []string // sorted
}

type toldBase struct{ name, digest, platform string }

// dockerLine is an instruction and its place.
type dockerLine struct{ place, text string }

// tell puts stages of one Dockerfile together.
func tell(list ...*stages.Stage) *toldStages {
	t := &toldStages{settings: map[string]string{}, args: map[string]string{}}
	for _, s := range list {
		d := s.Recipe.Dockerfile
		for name, v := range map[string]string{
			"target": d.Target, "network": d.Network, "addHost": strings.Join(d.AddHosts, " "),
			"secrets": strings.Join(d.Secrets, " "), "ssh": strings.Join(d.SSH, " "), "BUILDPLATFORM": string(d.BuildPlatform),
		} {
			if !strings.Contains(t.settings[name], v) {
				t.settings[name] = strings.TrimSpace(t.settings[name] + " " + v)
			}
		}
		maps.Copy(t.args, d.Args)
		t.lines = append(t.lines, linesOf(s)...)
		t.context = s.Dockerfile.Context
		t.files = append(t.files, s.Dockerfile.Files...)
		t.addBases(s)
	}
	t.files = slices.Compact(slices.Sorted(slices.Values(t.files)))
	return t
}

// addBases notes the bases of a stage that are not the one that it stands on, which is
// a stage of its own.
func (t *toldStages) addBases(s *stages.Stage) {
	if s.Recipe.Kind == stages.KindConfig || len(t.bases) > 0 {
		return
	}
	for i, ref := range s.Dockerfile.Bases {
		b := toldBase{ref.Name, ref.Digest, string(at(s.Dockerfile.Platforms, i))}
		t.bases = append(t.bases, b)
	}
}

// told compares what stages say.
func (e *explainer) told(a, b *toldStages) error {
	for _, name := range []string{"target", "network", "addHost", "secrets", "ssh", "BUILDPLATFORM"} {
		e.add(InputSettings, name, a.settings[name], b.settings[name])
	}
	names := slices.Collect(maps.Keys(a.args))
	for k := range b.args {
		if _, both := a.args[k]; !both {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		e.add(InputArg, k, a.args[k], b.args[k])
	}
	for i := range max(len(a.bases), len(b.bases)) {
		x, y := at(a.bases, i), at(b.bases, i)
		e.add(InputBase, cmp.Or(y.name, x.name), x.digest, y.digest)
		if i < len(a.bases) && i < len(b.bases) {
			e.add(InputPlatform, y.name, x.platform, y.platform)
		}
	}
	e.instructions(a.lines, b.lines)
	return e.context(a, b)
}

// linesOf returns the instructions that count, in the order of the file.
func linesOf(s *stages.Stage) []dockerLine {
	var out []dockerLine
	d, src := s.Recipe.Dockerfile, s.Dockerfile
	add := func(texts []string, lines []int) {
		for i, text := range texts {
			out = append(out, dockerLine{fmt.Sprintf("%s:%d", src.Path, at(lines, i)), text})
		}
	}
	if src.Part != nil {
		add(d.Instructions, at(src.Lines, 0))
		return out
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
func (e *explainer) context(old, now *toldStages) error {
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
func taken(files Lister, t *toldStages) ([]placedFile, error) {
	if len(t.files) == 0 {
		return nil, nil
	}
	all, err := files.Files(dockerfile.Selection(t.context))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(f source.File) bool {
		_, ok := slices.BinarySearch(t.files, f.Path)
		return !ok
	})
	out := make([]placedFile, len(all))
	for i, f := range all {
		out[i] = placedFile{path.Join(t.context, f.Path), fmt.Sprintf("%s %s", f.Mode, f.Object)}
	}
	return out, nil
}
