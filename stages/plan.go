package stages

import "slices"

// Mapping places files of a git tree into an image.
type Mapping struct {
	// Remote names another repository that the files come from; the zero value is
	// the project's own.
	Remote Remote
	// Add is the slash-separated path in the tree, relative to it and clean; "." is all of it.
	Add string
	// To is the absolute, clean target path. Where Add is a file, so is To.
	To string
	// Owner and Group are names or numbers; empty means 0.
	Owner, Group string
	// IncludePaths and ExcludePaths are globs relative to Add ("**" crosses
	// directories; a pattern that names a directory means all below it). No
	// IncludePaths means everything.
	IncludePaths, ExcludePaths []string
	// StageDependencies are, for kinds that run commands, globs relative to Add
	// of the files that the commands need.
	StageDependencies map[Kind][]string
}

// Selection says which files of a mapping a stage places. It is a value: the
// files are listed only when a layer must be made.
type Selection struct {
	Mapping *Mapping
	// Kind is the stage that places the files: those that it is the first of
	// Stages to declare, or with [KindSource] those that none declares.
	Kind Kind
	// Stages are the kinds of the image's command stages that exist, in order.
	Stages []Kind
	// Whole has all files of the mapping placed by Kind.
	Whole bool
	// Absent lists a submodule whose files are not here as one entry; else it is an error.
	Absent bool
	// Later are the image's later mappings: a target path that one of them gives
	// is not part of this selection.
	Later []*Mapping
}

// BaseRef is where the base of a [KindFrom] stage can be fetched.
type BaseRef struct {
	// Name is the reference as configured, for people and for fetching.
	Name string
	// Digest is the platform's manifest digest; the recipe's Base.
	Digest string
	// Pinned is false for a reference that was resolved in this run.
	Pinned bool
}

// Stage is one step of an image in a plan.
type Stage struct {
	Digest Digest
	Recipe Recipe
	// Selections tells, for each of Recipe.Files, where the files come from.
	Selections []Selection
	// BaseRef is set for stages of kind [KindFrom] with a base other than scratch.
	BaseRef *BaseRef
	// Parent is the stage below, nil for the first.
	Parent *Stage
	// Dockerfile is set for stages of a Dockerfile.
	Dockerfile *DockerfileSource
	// ImportFrom are the final stages of the images named in Recipe.Imports, in order,
	// or the stages of the same file that a group of instructions takes files of.
	ImportFrom []*Stage
}

// Name names a stage inside its image: its kind, or where its instructions stand.
func (s *Stage) Name() string {
	if s.Recipe.Kind == KindInstructions && s.Dockerfile != nil {
		return s.Dockerfile.Part.name()
	}
	return string(s.Recipe.Kind)
}

// NeedsEngine reports whether the stage can only be made by running something.
func (s *Stage) NeedsEngine() bool {
	return s.Recipe.Commands != nil || s.buildsFile() || len(s.Recipe.Imports) > 0 && !s.WholeLayers()
}

// buildsFile reports whether instructions of a Dockerfile make the stage's files.
func (s *Stage) buildsFile() bool {
	return s.Recipe.Dockerfile != nil && s.Recipe.Kind != KindConfig
}

// WholeLayers reports whether the stage's import is exactly the layers of the
// image that it takes from, so that they can be taken as they are. That holds for
// a single import of "/" to "/" of all that is there under the owners that it
// has, where
//
//   - there is no layer below the stage, or
//   - the source begins with the stages below this one, and what it adds to them
//     are files and config alone: commands may delete what an import, which only
//     adds, would leave in place.
func (s *Stage) WholeLayers() bool {
	if len(s.Recipe.Imports) != 1 || s.Parent == nil {
		return false
	}
	im := s.Recipe.Imports[0]
	whole := im.Add == "/" && im.To == "/" && im.Owner == "" && im.Group == "" &&
		len(im.IncludePaths) == 0 && len(im.ExcludePaths) == 0
	return whole && (s.Parent.empty() || s.ImportFrom[0].onlyAddsTo(s.Parent))
}

// empty reports whether there is certainly no layer in the stage and below it.
func (s *Stage) empty() bool {
	for ; s != nil; s = s.Parent {
		r := &s.Recipe
		if r.Base != "" || r.Commands != nil || s.buildsFile() || len(r.Files) > 0 || len(r.Imports) > 0 {
			return false
		}
	}
	return true
}

// onlyAddsTo reports whether the stages from below up to s, below apart, place
// files and nothing else.
func (s *Stage) onlyAddsTo(below *Stage) bool {
	for ; s != nil; s = s.Parent {
		if s.Digest == below.Digest {
			return true
		}
		if s.Recipe.Commands != nil || s.buildsFile() || len(s.Recipe.Imports) > 0 {
			return false
		}
	}
	return false
}

// Below returns the stage whose layers come first in this one's: its parent, or
// what it takes whole layers from; nil for the first stage.
func (s *Stage) Below() *Stage {
	if s.WholeLayers() {
		return s.ImportFrom[0]
	}
	return s.Parent
}

// Needs returns the stages that must exist before this one is made.
func (s *Stage) Needs() []*Stage {
	var out []*Stage
	if s.Parent != nil {
		out = append(out, s.Parent)
	}
	return append(out, s.ImportFrom...)
}

// Image is a named result of the project for one platform.
type Image struct {
	// Name is empty for a nameless image.
	Name     string
	Platform Platform
	// Stages from the first to the final one. Images that begin from another
	// image of the project share that image's stages, which are listed first.
	Stages []*Stage
	// Own is how many of Stages, at the end, this image adds itself.
	Own int
}

// Final returns the stage whose result is the image.
func (i *Image) Final() *Stage { return i.Stages[len(i.Stages)-1] }

// Plan is all that a build will make. Stages that several images need stand in
// it once: equal digests are equal pointers.
type Plan struct {
	Project string
	// Images in the order of the configuration, platforms of one image together.
	Images []*Image
	// Others are images that were not asked for, but that Images begin or import
	// from, each after those that it is made from itself.
	Others []*Image
	// Remotes are the other repositories that files come from.
	Remotes []RemoteCommit
}

// All returns Images and then Others.
func (p *Plan) All() []*Image { return slices.Concat(p.Images, p.Others) }

// Root returns the digest over the project's name and the final stage digests
// of Images, which names the build as a whole. Others are in those digests already.
func (p *Plan) Root() (Digest, error) {
	type image struct {
		Final    Digest   `json:"final"`
		Name     string   `json:"name"`
		Platform Platform `json:"platform"`
	}
	root := struct {
		Format  int     `json:"format"`
		Images  []image `json:"images"`
		Project string  `json:"project"`
	}{Format: RecipeFormat, Project: p.Project}
	for _, i := range p.Images {
		root.Images = append(root.Images, image{i.Final().Digest, i.Name, i.Platform})
	}
	return digestJSON(root)
}
