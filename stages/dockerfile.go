package stages

import (
	"slices"
	"strconv"
)

// Dockerfile is everything that the result of a Dockerfile follows from: what
// its target does, with which arguments, bases and files. Whatever else the file
// says, comments and stages that the target does not need above all, is not here.
//
// Fields stand in the order of their JSON names.
type Dockerfile struct {
	// AddHosts are "NAME:ADDRESS" lines for the hosts file of commands, in order.
	AddHosts []string `json:"addHosts,omitempty"`
	// Args are the given arguments that an instruction can see.
	Args map[string]string `json:"args,omitempty"`
	// Bases are the images from elsewhere, in the order in which they are named.
	Bases []DockerfileBase `json:"bases,omitempty"`
	// BuildPlatform is what BUILDPLATFORM says, where an instruction can see it.
	BuildPlatform Platform `json:"buildPlatform,omitempty"`
	// Escape is the escape character, where it is not a backslash.
	Escape string `json:"escape,omitempty"`
	// Files is the identity of the files of the context that instructions can
	// take: paths below the context, git modes and object ids. Nil when none can.
	Files *Digest `json:"files,omitempty"`
	// Globals are the ARG instructions before the first FROM.
	Globals []string `json:"globals,omitempty"`
	// Network is "none" or "host"; empty for the engine's default.
	Network string `json:"network,omitempty"`
	// Secrets and SSH are ids, sorted. Values are never part of a recipe.
	Secrets []string `json:"secrets,omitempty"`
	SSH     []string `json:"ssh,omitempty"`
	// Stages are those that the target needs, in the order of the file; the
	// target is the last one.
	Stages []DockerfileStage `json:"stages"`
	// Target is the name of the target, which TARGETSTAGE tells commands; empty
	// for one without a name.
	Target string `json:"target,omitempty"`
}

// Begins reports whether a stage begins from the n-th of Bases.
func (d *Dockerfile) Begins(n int) bool {
	from := "base " + strconv.Itoa(n)
	return slices.ContainsFunc(d.Stages, func(s DockerfileStage) bool { return s.From == from })
}

// DockerfileBase is an image that a Dockerfile names.
type DockerfileBase struct {
	// Digest is that of the manifest for Platform.
	Digest   string   `json:"digest"`
	Platform Platform `json:"platform"`
}

// DockerfileStage is one FROM with what follows it.
type DockerfileStage struct {
	// From is "scratch", or "base N" or "stage N": an index into Bases or Stages.
	From string `json:"from"`
	// Instructions in a form that does not depend on comments, on the case of
	// keywords and on the white space between words.
	Instructions []string `json:"instructions,omitempty"`
	// Uses are what COPY --from and RUN --mount=from take from, in the order of
	// the instructions and written as From.
	Uses []string `json:"uses,omitempty"`
}

// DockerfileSource is where a stage of kind [KindDockerfile] comes from: what is
// needed to build it beside its recipe, and to speak about it.
type DockerfileSource struct {
	// Path is the Dockerfile's, relative to the project's directory. Text is its content.
	Path string
	Text []byte
	// Context is the context's directory, relative to the project's; "." for that one.
	Context string
	// Files are the files that instructions can take, relative to Context and sorted.
	Files []string
	// Target is the name of the stage to build; empty for the last one.
	Target string
	// BuildPlatform is what commands are told about where they run.
	BuildPlatform Platform
	// Bases stand for the recipe's Bases.
	Bases []BaseRef
	// Root is the index of the base that the target begins from, -1 for scratch.
	Root int
	// Undeclared are the given arguments, sorted, that no ARG of the file declares.
	Undeclared []string
	// OwnProxy says that the Dockerfile has proxy variables of its own among its ARGs.
	OwnProxy bool
	// Lines tells where each of the recipe's Stages has its instructions; GlobalLines
	// is the same for Globals.
	Lines       [][]int
	GlobalLines []int
}
