package stages

import (
	"fmt"
	"slices"
	"strconv"
)

// Dockerfile is everything that a stage of a Dockerfile follows from, beside what
// it is built upon. There are three kinds of such stages: a group of instructions
// ([KindInstructions]), the config of the image ([KindConfig]), and the whole of what
// a target needs ([KindDockerfile]). Whatever else the file says, comments and
// build stages that the target does not need above all, is not here.
//
// Fields stand in the order of their JSON names.
type Dockerfile struct {
	// AddHosts are "NAME:ADDRESS" lines for the hosts file of commands, in order.
	AddHosts []string `json:"addHosts,omitempty"`
	// Args are the given arguments that an instruction can see; of a part of a file,
	// all values that its ARGs get from outside of their build stage.
	Args map[string]string `json:"args,omitempty"`
	// Bases are the images from elsewhere, in the order in which they are named; of
	// a group those that it takes files of.
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
	// Instructions are those of a part of a file, in the form of [DockerfileStage].
	Instructions []string `json:"instructions,omitempty"`
	// Network is "none" or "host"; empty for the engine's default.
	Network string `json:"network,omitempty"`
	// Secrets and SSH are ids, sorted. Values are never part of a recipe.
	Secrets []string `json:"secrets,omitempty"`
	SSH     []string `json:"ssh,omitempty"`
	// Stages are, of a whole file, those that the target needs, in the order of the
	// file; the target is the last one.
	Stages []DockerfileStage `json:"stages,omitempty"`
	// Target is the name of the target, which TARGETSTAGE tells commands; empty
	// for one without a name.
	Target string `json:"target,omitempty"`
	// Uses are what the instructions of a group take files of, in their order:
	// "scratch", "base N" as in [DockerfileStage], or the digest of a stage.
	Uses []string `json:"uses,omitempty"`
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

// DockerfileSource is where a stage of a Dockerfile comes from: what is needed to
// make it beside its recipe, and to speak about it.
type DockerfileSource struct {
	// Path is the Dockerfile's, relative to the project's directory. Text is its
	// content; for [KindConfig] without the instructions that make files.
	Path string
	Text []byte
	// Context is the context's directory, relative to the project's; "." for that one.
	Context string
	// Files are the files that instructions can take, relative to Context and sorted.
	Files []string
	// Target is the name of the stage to build; empty for the last one.
	Target string
	// Args are the given arguments that an ARG declares.
	Args map[string]string
	// Platform is what the image is for, BuildPlatform what commands are told about
	// where they run.
	Platform, BuildPlatform Platform
	// Bases are the images that the target needs; Platforms are theirs. Those of the
	// recipe are among them, and the same for a whole file.
	Bases     []BaseRef
	Platforms []Platform
	// Begins says of each of Bases whether a build stage begins from it.
	Begins []bool
	// Root is the index of the base that the stage stands on at last, -1 for scratch.
	Root int
	// Undeclared are the given arguments, sorted, that no ARG of the file declares.
	Undeclared []string
	// OwnProxy says that the Dockerfile has proxy variables of its own among its ARGs.
	OwnProxy bool
	// Lines tells where each of the recipe's Stages has its instructions; GlobalLines
	// is the same for Globals. Of a part of a file there is one list, for Instructions.
	Lines       [][]int
	GlobalLines []int
	// Whole says why a stage is made of the whole file; empty for a part of one.
	Whole string
	// Part is set for a part of a file.
	Part *DockerfilePart
}

// DockerfilePart is a part of a Dockerfile: a group of instructions or what sets the
// config.
//
// What a group stands on and takes files of is found in the file as it is: the text
// up to a line has a result, that of its last build stage.
type DockerfilePart struct {
	// First and Last are the lines of its own instructions.
	First, Last int
	// Runs says that an instruction runs commands.
	Runs bool
	// Begins says that nothing below it was made from the file: it stands on a base.
	Begins bool
	// End is the line that the text ends with which has the group's result. Below is
	// the same for the stage below, 0 where that is a base, and Uses for the stages in
	// [Stage.ImportFrom].
	End, Below int
	Uses       []int
	// Caches says that commands have cache mounts where files are put that they may
	// hold products of. OwnCaches: such files came from below, and their times say nothing.
	Caches, OwnCaches bool
}

// name is how people know a part of a file.
func (p *DockerfilePart) name() string {
	if p.First == p.Last {
		return fmt.Sprintf("line:%d", p.First)
	}
	return fmt.Sprintf("lines:%d-%d", p.First, p.Last)
}
