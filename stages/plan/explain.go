package plan

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

// Lister lists the files of a selection, sorted by path; implemented by source.Tree.
type Lister interface {
	Files(sel stages.Selection) ([]source.File, error)
}

// Side is one of the two plans that [Explain] compares.
type Side struct {
	Image *stages.Image
	Files Lister
}

// Input names for a [Difference].
const (
	InputBase     = "base"
	InputCommand  = "command"
	InputConfig   = "config"
	InputFile     = "file"
	InputImport   = "import"
	InputMount    = "mount"
	InputParent   = "parent"
	InputPlatform = "platform"
	InputSalt     = "salt"
	InputSettings = "settings"
	InputStage    = "stage"
)

// Difference is one input that makes a stage differ.
type Difference struct {
	// Stage is the kind of the stage, which names it inside its image.
	Stage stages.Kind `json:"stage"`
	// Input is one of the Input constants: what kind of thing differs.
	Input string `json:"input"`
	// Subject is what differs: a target path, the number of a command, a config key.
	Subject string `json:"subject,omitempty"`
	// Before and After are the two values, "" where there is none.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Explain says which inputs make the stages of an image differ between two
// plans, in the order of the stages. A stage that differs only because of the
// one below it has the single difference [InputParent].
func Explain(before, after Side) ([]Difference, error) {
	e := &explainer{before: before, after: after}
	old, now := byKind(before.Image), byKind(after.Image)
	for _, k := range stages.Kinds() {
		e.kind = k
		if k == stages.KindInstructions {
			if err := e.groups(before.Image, after.Image); err != nil {
				return nil, err
			}
			continue
		}
		for i := range max(len(old[k]), len(now[k])) {
			if err := e.stage(at(old[k], i), at(now[k], i)); err != nil {
				return nil, err
			}
		}
	}
	return e.out, nil
}

// byKind groups an image's stages; images that begin from others have several of a kind.
func byKind(img *stages.Image) map[stages.Kind][]*stages.Stage {
	out := make(map[stages.Kind][]*stages.Stage)
	for _, s := range img.Stages {
		out[s.Recipe.Kind] = append(out[s.Recipe.Kind], s)
	}
	return out
}

func at[T any](list []T, i int) T {
	var none T
	if i >= len(list) {
		return none
	}
	return list[i]
}

type explainer struct {
	before, after Side
	kind          stages.Kind
	out           []Difference
}

func (e *explainer) add(input, subject, before, after string) {
	if before != after {
		e.out = append(e.out, Difference{e.kind, input, subject, before, after})
	}
}

func (e *explainer) stage(old, now *stages.Stage) error {
	switch {
	case old == nil:
		e.add(InputStage, "", "", "new")
		return nil
	case now == nil:
		e.add(InputStage, "", "present", "")
		return nil
	case old.Digest == now.Digest:
		return nil
	}
	n := len(e.out)
	a, b := &old.Recipe, &now.Recipe
	e.add(InputBase, baseName(now), a.Base, b.Base)
	e.add(InputPlatform, "", string(a.Platform), string(b.Platform))
	e.add(InputSalt, "", a.Salt, b.Salt)
	e.commands(a.Commands, b.Commands)
	if err := e.files(old, now); err != nil {
		return err
	}
	for i := range max(len(a.Imports), len(b.Imports)) {
		e.importOf(at(a.Imports, i), at(b.Imports, i))
	}
	if err := e.config(a.Config, b.Config); err != nil {
		return err
	}
	if err := e.dockerfile(old, now); err != nil {
		return err
	}
	if len(e.out) == n {
		e.add(InputParent, "", digestOf(a.Parent), digestOf(b.Parent))
	}
	return nil
}

func baseName(s *stages.Stage) string {
	if s.BaseRef == nil {
		return ""
	}
	return s.BaseRef.Name
}

func digestOf(d *stages.Digest) string {
	if d == nil {
		return ""
	}
	return d.String()
}

func (e *explainer) commands(a, b *stages.Commands) {
	none := &stages.Commands{}
	if a == nil {
		a = none
	}
	if b == nil {
		b = none
	}
	e.add(InputSettings, "cacheVersion", a.CacheVersion, b.CacheVersion)
	e.add(InputSettings, "interpreter", a.Interpreter, b.Interpreter)
	e.add(InputSettings, "network", a.Network, b.Network)
	for i := range max(len(a.Mounts), len(b.Mounts)) {
		e.mount(at(a.Mounts, i), at(b.Mounts, i))
	}
	for i := range max(len(a.Script), len(b.Script)) {
		e.add(InputCommand, fmt.Sprintf("line %d", i+1), at(a.Script, i), at(b.Script, i))
	}
}

func (e *explainer) mount(a, b stages.Mount) {
	e.add(InputMount, mountName(cmp.Or(b, a)), mountValue(a), mountValue(b))
}

// mountName is what people know a mount by.
func mountName(m stages.Mount) string { return string(m.Type) + " " + cmp.Or(m.To, m.Env, m.ID) }

func mountValue(m stages.Mount) string {
	if m == (stages.Mount{}) {
		return ""
	}
	return compact(m)
}

func (e *explainer) importOf(a, b stages.Import) {
	subject := b.Add + " to " + b.To
	if b.To == "" {
		subject = a.Add + " to " + a.To
	}
	if a.From != b.From {
		e.add(InputImport, subject, nonzero(a.From), nonzero(b.From))
	}
	a.From, b.From = stages.Digest{}, stages.Digest{}
	e.add(InputImport, subject, compact(a), compact(b))
}

func nonzero(d stages.Digest) string {
	if d.IsZero() {
		return ""
	}
	return d.String()
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // values of package stages always encode
		return err.Error()
	}
	return string(b)
}

// config compares two configs key by key, as they are encoded.
func (e *explainer) config(a, b *stages.Config) error {
	before, err := keys(a)
	if err != nil {
		return err
	}
	after, err := keys(b)
	if err != nil {
		return err
	}
	var names []string
	for k := range before {
		names = append(names, k)
	}
	for k := range after {
		if _, both := before[k]; !both {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		e.add(InputConfig, k, string(before[k]), string(after[k]))
	}
	return nil
}

func keys(c *stages.Config) (map[string]json.RawMessage, error) {
	if c == nil {
		return nil, nil
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var out map[string]json.RawMessage
	err = json.Unmarshal(b, &out)
	return out, err
}

// files compares what two stages place, path by path.
func (e *explainer) files(old, now *stages.Stage) error {
	a, err := placed(e.before.Files, old)
	if err != nil {
		return err
	}
	b, err := placed(e.after.Files, now)
	if err != nil {
		return err
	}
	e.placed(a, b)
	return nil
}

// placed compares two sorted lists of files.
func (e *explainer) placed(a, b []placedFile) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].path < b[0].path:
			e.add(InputFile, a[0].path, a[0].what, "")
			a = a[1:]
		case len(a) == 0 || b[0].path < a[0].path:
			e.add(InputFile, b[0].path, "", b[0].what)
			b = b[1:]
		default:
			e.add(InputFile, a[0].path, a[0].what, b[0].what)
			a, b = a[1:], b[1:]
		}
	}
}

// placedFile is a file in the image and what it is: mode, object and owner.
type placedFile struct{ path, what string }

func placed(files Lister, s *stages.Stage) ([]placedFile, error) {
	var out []placedFile
	for i, sel := range s.Selections {
		list, err := files.Files(sel)
		if err != nil {
			return nil, err
		}
		set := s.Recipe.Files[i]
		for _, f := range list {
			path := set.To
			if f.Path != "" {
				path = joinPath(set.To, f.Path)
			}
			out = append(out, placedFile{path, fmt.Sprintf("%s %s%s%s", f.Mode, f.Object, filter(f), owned(set))})
		}
	}
	slices.SortFunc(out, func(a, b placedFile) int { return bytes.Compare([]byte(a.path), []byte(b.path)) })
	return out, nil
}

func filter(f source.File) string {
	if f.LFS {
		return " of Git LFS"
	}
	return ""
}

func owned(f stages.FileSet) string {
	if f.Owner == "" && f.Group == "" {
		return ""
	}
	return fmt.Sprintf(" (%s:%s)", f.Owner, f.Group)
}

// joinPath joins without cleaning: names in a git tree may be anything but
// contain no empty or dot parts.
func joinPath(dir, file string) string {
	if dir == "/" {
		return "/" + file
	}
	return dir + "/" + file
}
