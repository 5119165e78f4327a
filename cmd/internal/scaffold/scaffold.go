// Package scaffold writes a first cairn.yaml for a repository: out of its
// Dockerfiles, its werf.yaml, or a guess at its language. It only reads; what it
// makes is a text that package config can load.
package scaffold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages/config"
)

// maxDepth is how many directories deep Dockerfiles are looked for, maxFile how
// much of a file is read, in bytes.
const (
	maxDepth = 6
	maxFile  = 1 << 20
)

// Kinds of what can be found.
const (
	KindDockerfile = "dockerfile"
	KindWerf       = "werf"
	KindLanguage   = "language"
)

// Found is something that an image can be made of.
type Found struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
	// Image is the name of an image that was made of it.
	Image string `json:"image,omitempty"`
	// Language is set for KindLanguage.
	Language string `json:"language,omitempty"`
}

// Unconverted is something of a werf.yaml that has no place in the new file.
type Unconverted struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Result is a first configuration and what it was made of.
type Result struct {
	// Text is the cairn.yaml; empty where a werf.yaml cannot be converted.
	Text        string
	Found       []Found
	Unconverted []Unconverted
}

// Make looks at a directory. name is that of the project where nothing else says
// one. A werf.yaml goes before Dockerfiles, and those before a language.
func Make(ctx context.Context, dir fs.FS, name string) (Result, error) {
	project := ProjectName(name)
	for _, file := range []string{"werf.yaml", "werf.yml"} {
		data, err := readFile(dir, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Result{}, err
		}
		return fromWerf(ctx, dir, file, data)
	}
	found, err := dockerfiles(ctx, dir, project)
	if err != nil {
		return Result{}, err
	}
	if len(found) > 0 {
		return Result{Text: dockerfileText(project, found), Found: found}, nil
	}
	return fromLanguage(dir, project)
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// ProjectName makes a project's or image's name out of any text.
func ProjectName(s string) string {
	s = strings.Trim(notInName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if len(s) > 50 {
		s = strings.Trim(s[:50], "-")
	}
	return cmp.Or(s, "app")
}

func readFile(dir fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: want a file of at most %d bytes", name, maxFile)
	}
	return fs.ReadFile(dir, name)
}

// skipped are directories in which nothing is looked for.
func skipped(name string) bool {
	return strings.HasPrefix(name, ".") && name != "." || slices.Contains([]string{"node_modules", "vendor", "testdata"}, name)
}

// dockerfiles finds Dockerfiles and gives each an image's name of its own.
func dockerfiles(ctx context.Context, dir fs.FS, project string) ([]Found, error) {
	var out []Found
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.IsDir() && (skipped(d.Name()) || strings.Count(p, "/") >= maxDepth):
			return fs.SkipDir
		case d.Type().IsRegular() && isDockerfile(d.Name()):
			out = append(out, Found{Kind: KindDockerfile, Path: p})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for i := range out {
		name := imageOf(out[i].Path, project)
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", imageOf(out[i].Path, project), n)
		}
		taken[name], out[i].Image = true, name
	}
	return out, nil
}

func isDockerfile(name string) bool {
	return name == "Dockerfile" || name == "Containerfile" ||
		strings.HasPrefix(name, "Dockerfile.") && !strings.HasSuffix(name, ".dockerignore") || strings.HasSuffix(name, ".Dockerfile")
}

// imageOf names an image after its Dockerfile, or the directory of that.
func imageOf(file, project string) string {
	base := path.Base(file)
	own := strings.TrimSuffix(strings.TrimPrefix(base, "Dockerfile."), ".Dockerfile")
	dir := path.Base(path.Dir(file))
	switch {
	case own != base:
		return ProjectName(own)
	case dir != "." && dir != "docker":
		return ProjectName(dir)
	default:
		return project
	}
}

func dockerfileText(project string, found []Found) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Each image is made by a Dockerfile. docs/reference/configuration.md has all keys.\nproject: %s\n", quoted(project))
	for _, f := range found {
		fmt.Fprintf(&b, "---\nimage: %s\ndockerfile: %s\n", quoted(f.Image), quoted(f.Path))
		// Most builds of a repository take its top directory for the context.
		if path.Dir(f.Path) != "." {
			b.WriteString("# The Dockerfile's own directory is the context; for the top of the repository write:\n# context: /\n")
		}
	}
	return b.String()
}

// quoted writes a text as YAML that is read as the same text. Most names need no
// quotes; numbers, null and the like do.
func quoted(s string) string {
	var plain any
	if err := yaml.Unmarshal([]byte(s), &plain); err == nil && plain == s && plainName.MatchString(s) {
		return s
	}
	return untemplated(strconv.Quote(s))
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// untemplated has no template begin in a text: the language has templates, and no
// text is one by itself.
func untemplated(s string) string { return strings.ReplaceAll(s, "{{", `{{ "{{" }}`) }

// Check loads a text as a build would.
func Check(ctx context.Context, text string) (*config.Project, error) {
	return config.Load(ctx, config.Input{Path: "cairn.yaml", Data: []byte(text)})
}
