package plan

import (
	"path"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
)

// Undeclared is a file of the project that a command stage did not see because
// it did not declare it.
type Undeclared struct {
	// Image is the name of the image that the stage belongs to, Stage its kind.
	Image string
	Stage stages.Kind
	// Target is the file's place in the image, or that of a directory of which the
	// stage saw nothing.
	Target string
	// Mapping is the index of the mapping in the image's git that places it, and
	// Line where that begins in the configuration file, 0 where this is not known.
	Mapping, Line int
	// Glob, added to the mapping's stageDependencies for Stage, declares it.
	Glob string
	// Placed is the stage that puts it in place as things are.
	Placed stages.Kind
	// Whole says that the mapping has no stageDependencies at all: with the first
	// one, its other files are not placed before install any more.
	Whole bool
}

// Bounds on what is read of a command's output.
const (
	maxUndeclared = 3
	maxTokens     = 2_000
	maxToken      = 1_000 // bytes
)

// FindUndeclared looks through the output of a failed command stage for paths
// that the project has and that only a later stage of the image puts in place.
// It returns at most three, those named last in the output first.
//
// It knows no tool's messages: a word counts when it is the target path of such
// a file, or ends it. p must be made from project.
func FindUndeclared(project *config.Project, p *stages.Plan, files Lister, failed *stages.Stage, output []string) ([]Undeclared, error) {
	if failed.Recipe.Commands == nil {
		return nil, nil
	}
	s := &search{project: project, files: files, failed: failed}
	for _, chain := range chains(p) {
		if err := s.add(chain); err != nil {
			return nil, err
		}
	}
	if len(s.absent) == 0 {
		return nil, nil
	}
	byTarget := func(a, b Undeclared) int { return strings.Compare(a.Target, b.Target) }
	slices.SortStableFunc(s.absent, byTarget)
	s.absent = slices.CompactFunc(s.absent, func(a, b Undeclared) bool { return a.Target == b.Target })
	slices.Sort(s.present)
	return s.match(tokens(output)), nil
}

// chains returns the stages of every image that the plan has or needs, each from
// its first stage on.
func chains(p *stages.Plan) [][]*stages.Stage {
	var out [][]*stages.Stage
	seen := make(map[*stages.Stage]bool)
	var visit func(final *stages.Stage)
	visit = func(final *stages.Stage) {
		if seen[final] {
			return
		}
		seen[final] = true
		var chain []*stages.Stage
		for s := final; s != nil; s = s.Parent {
			chain = append(chain, s)
			for _, from := range s.ImportFrom {
				visit(from)
			}
		}
		slices.Reverse(chain)
		out = append(out, chain)
	}
	for _, img := range p.Images {
		visit(img.Final())
	}
	return out
}

// search gathers what the failed stage saw of the project and what it did not.
type search struct {
	project *config.Project
	files   Lister
	failed  *stages.Stage
	present []string // target paths
	absent  []Undeclared
}

// add gathers from one image, when the failed stage belongs to it.
func (s *search) add(chain []*stages.Stage) error {
	at := slices.Index(chain, s.failed)
	if at < 0 {
		return nil
	}
	for i, stage := range chain {
		for j, sel := range stage.Selections {
			img, mapping := s.owner(sel.Mapping)
			if img == nil {
				continue
			}
			list, err := s.files.Files(sel)
			if err != nil {
				return err
			}
			for _, f := range list {
				u := s.undeclared(img, mapping, stage, sel, f.Path)
				if i <= at {
					s.present = append(s.present, targetOf(stage.Recipe.Files[j].To, f.Path))
				} else if s.runsIn(img) {
					s.absent = append(s.absent, u)
				}
			}
		}
	}
	return nil
}

// owner returns the image that a mapping belongs to.
func (s *search) owner(m *stages.Mapping) (*config.Image, int) {
	for i := range s.project.Images {
		img := &s.project.Images[i]
		for j := range img.Git {
			if m == &img.Git[j] {
				return img, j
			}
		}
	}
	return nil, 0
}

// runsIn reports whether the failed commands are those of img. In an image that
// begins from another one, the stages of both follow each other.
func (s *search) runsIn(img *config.Image) bool {
	section, ok := img.Shell[s.failed.Recipe.Kind]
	return ok && slices.Equal(section.Commands, s.failed.Recipe.Commands.Script)
}

func (s *search) undeclared(img *config.Image, mapping int, placed *stages.Stage, sel stages.Selection, file string) Undeclared {
	u := Undeclared{
		Image: img.Name, Stage: s.failed.Recipe.Kind, Target: targetOf(sel.Mapping.To, file),
		Mapping: mapping, Glob: literal(file), Placed: placed.Recipe.Kind, Whole: sel.Whole,
	}
	if file == "" { // the mapping adds this one file
		u.Glob = literal(path.Base(sel.Mapping.Add))
	}
	if mapping < len(img.GitLines) {
		u.Line = img.GitLines[mapping]
	}
	return u
}

func targetOf(to, file string) string {
	if file == "" {
		return to
	}
	return joinPath(to, file)
}

// literal writes a path as a glob that matches only it.
func literal(file string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `{`, `\{`).Replace(file)
}

// match returns what the words name, files before directories.
func (s *search) match(words []string) []Undeclared {
	var out []Undeclared
	for _, find := range []func(string) (Undeclared, bool){s.file, s.directory} {
		for _, w := range words {
			u, ok := find(w)
			if ok && len(out) < maxUndeclared && !slices.Contains(out, u) {
				out = append(out, u)
			}
		}
	}
	return out
}

// file finds the file that a word names: by its target path or, where the stage
// saw none that it could mean, by the end of one.
func (s *search) file(word string) (Undeclared, bool) {
	if path.IsAbs(word) {
		i, ok := slices.BinarySearchFunc(s.absent, word, func(u Undeclared, w string) int { return strings.Compare(u.Target, w) })
		if !ok {
			return Undeclared{}, false
		}
		return s.absent[i], true
	}
	end := "/" + word
	if slices.ContainsFunc(s.present, func(p string) bool { return strings.HasSuffix(p, end) }) {
		return Undeclared{}, false
	}
	var best Undeclared
	for _, u := range s.absent {
		if strings.HasSuffix(u.Target, end) && (best.Target == "" || len(u.Target) < len(best.Target)) {
			best = u
		}
	}
	return best, best.Target != ""
}

// directory finds the directory that a word names by its target path when the
// stage saw nothing of it.
func (s *search) directory(word string) (Undeclared, bool) {
	if !path.IsAbs(word) || word == "/" {
		return Undeclared{}, false
	}
	below := word + "/"
	i, _ := slices.BinarySearchFunc(s.absent, below, func(u Undeclared, w string) int { return strings.Compare(u.Target, w) })
	if i == len(s.absent) || !strings.HasPrefix(s.absent[i].Target, below) {
		return Undeclared{}, false
	}
	if j, _ := slices.BinarySearch(s.present, below); j < len(s.present) && strings.HasPrefix(s.present[j], below) {
		return Undeclared{}, false
	}
	u := s.absent[i]
	// What lies below the directory is the end of the target and so of the glob.
	dir := strings.TrimSuffix(u.Glob, literal(strings.TrimPrefix(u.Target, below)))
	u.Target, u.Glob = word, dir+"**"
	return u, true
}

// tokens returns the words of the output that could be paths, each once, those of
// the last line first.
func tokens(output []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, line := range slices.Backward(output) {
		for _, w := range strings.FieldsFunc(line, betweenPaths) {
			w = strings.TrimRight(w, ".!?…")
			if len(w) > maxToken || w == "" {
				continue
			}
			w = strings.TrimPrefix(path.Clean(w), "./")
			for strings.HasPrefix(w, "../") {
				w = w[len("../"):]
			}
			if w == "." || w == ".." || seen[w] {
				continue
			}
			seen[w] = true
			if out = append(out, w); len(out) == maxTokens {
				return out
			}
		}
	}
	return out
}

// betweenPaths reports whether r ends a path in messages, as blanks, quotes and
// the colon before a line number do.
func betweenPaths(r rune) bool {
	return r <= ' ' || strings.ContainsRune("'\"`‘’“”()<>[]{},;:=|*", r)
}
