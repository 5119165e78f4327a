package config

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/stages"
)

// Bounds on what a file may ask for. A real project stays far below all of them.
const (
	maxSource       = 1 << 20 // bytes of a configuration or template file, and of a text given to tpl
	maxRendered     = 8 << 20 // bytes of a rendered text and of any value inside a template
	maxSteps        = 500_000 // calls and loop rounds of one rendering
	maxElements     = 200_000 // elements of a value inside a template, nested ones included
	maxValueDepth   = 64
	maxIncludeDepth = 100
	maxNesting      = 100 // blocks or parentheses inside each other in a template
	maxTemplates    = 1_000
	maxVisits       = 200_000 // YAML nodes read, those behind aliases each time
	maxMergeDepth   = 16
	maxErrors       = 100
	maxProjectName  = 50
	maxImageName    = 128
)

// Files gives the other files of the commit (or of the work tree). Paths are
// slash-separated and relative to the directory of the configuration file.
type Files interface {
	// Read returns the content of a file; an error that wraps
	// [io/fs.ErrNotExist] when there is no such file.
	Read(ctx context.Context, path string) ([]byte, error)
	// Glob returns the paths of the files that match pattern, in which "**"
	// crosses directories. No match is no error.
	Glob(ctx context.Context, pattern string) ([]string, error)
}

// Dialect is the language that a configuration file is written in.
type Dialect string

// The dialects.
const (
	DialectCairn Dialect = "cairn"
	DialectWerf  Dialect = "werf"
)

// DialectOf tells the dialect from a file's name: werf.yaml and werf.yml are
// werf's, everything else is Cairn's.
func DialectOf(name string) Dialect {
	switch path.Base(name) {
	case "werf.yaml", "werf.yml":
		return DialectWerf
	default:
		return DialectCairn
	}
}

// Input is a configuration file and what its templates may see.
type Input struct {
	// Path names the file in errors and decides the dialect; see [DialectOf].
	Path string
	// Data is the file, not yet rendered.
	Data []byte
	// Files may be nil: there are no other files then.
	Files Files
	// Env looks up an environment variable. It is asked only for names that the
	// committed files allow. It may be nil: nothing is set then.
	Env func(string) (string, bool)
}

// Project is a validated configuration.
type Project struct {
	// Name is a lower-case DNS label of at most 50 characters.
	Name    string
	Dialect Dialect
	// Images in the order of the file, but each one after those that it begins
	// from or imports from.
	Images []Image
	// Cleanup says what a cleanup keeps.
	Cleanup Cleanup
	// Warnings are about things that have no effect, sorted by line.
	Warnings []*Error
}

// Image returns the image of that name; "" is the nameless one.
func (p *Project) Image(name string) (*Image, bool) {
	i := slices.IndexFunc(p.Images, func(i Image) bool { return i.Name == name })
	if i < 0 {
		return nil, false
	}
	return &p.Images[i], true
}

// Image is one image of the project.
type Image struct {
	// Name is empty for the nameless image, which is then the only one.
	Name string
	// Line is where the image's document begins in the configuration file.
	Line int
	// Platforms are never empty, each one once.
	Platforms []stages.Platform
	// From is a reference or "scratch". Exactly one of From, FromImage and
	// Dockerfile is set.
	From string
	// FromImage names another image of the project, which has all of Platforms.
	FromImage string
	// Dockerfile makes the whole image; what stands below is empty then.
	Dockerfile *Dockerfile
	// CacheVersion is the user's own word to have the image built anew.
	CacheVersion string
	// Git are the files of the own repository, in the order of the file.
	Git []stages.Mapping
	// GitLines are, for each of Git, where it begins in the configuration file.
	GitLines []int
	// Shell holds the command sections that exist, by their kind.
	Shell map[stages.Kind]Section
	// Interpreter is "sh" or "bash".
	Interpreter string
	// Network is "none" or "host"; empty for the engine's default.
	Network string
	// Imports in the order of the file.
	Imports []Import
	// Docker is the image config.
	Docker stages.Config
}

// Dockerfile says how an image is made by a Dockerfile.
type Dockerfile struct {
	// Path is the Dockerfile's and Context the directory that COPY takes from, both
	// relative to the configuration file's directory and clean.
	Path, Context string
	// Target is the name of the stage to build, empty for the last one.
	Target string
	// Args are values of ARGs.
	Args map[string]string
	// AddHosts are "NAME:ADDRESS".
	AddHosts []string
	// Network is "none" or "host"; empty for the engine's default.
	Network string
	// Secrets and SSH are the ids that RUN may mount.
	Secrets, SSH []string
	// Whole has all of the file be one stage.
	Whole bool
	// Line is where the key stands in the configuration file.
	Line int
}

// Section is one list of commands.
type Section struct {
	// Commands are never empty; they run in order as one script.
	Commands []string
	// CacheVersion joins the shell's common cacheVersion and the section's own.
	CacheVersion string
	// Mounts are those that the section sees, in the order of the file, with all
	// defaults written out.
	Mounts []stages.Mount
}

// Import takes files from the result of another image of the project.
type Import struct {
	// Kind is the stage that it happens in, such as [stages.KindImportBeforeInstall].
	Kind stages.Kind
	// Image names the source image, which has all platforms of the importing one.
	Image string
	// Add is the absolute, clean path in the source image, To the one in this image.
	Add, To string
	// Owner and Group are names or numbers; empty means as in the source image.
	Owner, Group string
	// IncludePaths and ExcludePaths are globs relative to Add.
	IncludePaths, ExcludePaths []string
	// Line is where the import stands in the configuration file.
	Line int
}

// Load renders, reads and checks a configuration file. What is wrong with the
// file comes back as [*Errors], all of it at once; a failure of [Files] other
// than a missing file, and the end of ctx, as themselves.
func Load(ctx context.Context, in Input) (*Project, error) {
	if in.Files == nil {
		in.Files = noFiles{}
	}
	problems := &collector{file: in.Path}
	if len(in.Data) > maxSource {
		problems.addf(place{line: 1}, "", "the file has %d bytes; at most %d are read", len(in.Data), maxSource)
		return nil, problems.err()
	}
	if strings.TrimSpace(string(in.Data)) == "" {
		problems.addf(place{line: 1}, `begin it with "project: NAME"`, "the file is empty")
		return nil, problems.err()
	}
	dialect := DialectOf(in.Path)
	allowed, err := allowedEnv(ctx, in, dialect, problems)
	if err != nil {
		return nil, err
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	text, err := render(ctx, in, dialect, allowed)
	if err != nil {
		return nil, err
	}
	docs := readDocuments(text, dialect, allowed.names, problems)
	p := docs.check(problems)
	if err := problems.err(); err != nil {
		return nil, err
	}
	p.Dialect = dialect
	p.Warnings = problems.sortedWarnings()
	return p, nil
}
