package wire

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cairnbuild/cairn/stages/config"
)

// Quick is a project without a configuration: one nameless image that a Dockerfile makes.
type Quick struct {
	// Dockerfile is relative to the project's directory, which is the context. Empty
	// for a project with a configuration.
	Dockerfile string
	// Target is the build stage, empty for the last one.
	Target string
}

// ConfiguredError says that a Dockerfile was named for a project that has a configuration.
type ConfiguredError struct{ File string }

// Error implements error.
func (e *ConfiguredError) Error() string {
	return "--dockerfile is for a project without a configuration, and this one has a " + e.File
}

// Hint says what to do.
func (e *ConfiguredError) Hint() string {
	return "write an image with \"dockerfile\" in " + e.File + ", or leave --dockerfile out"
}

// quick configures the project of a Dockerfile alone. Its name is that of the directory.
func (p *Project) quick(ctx context.Context, s Settings) error {
	p.File = s.Quick.Dockerfile
	text := fmt.Sprintf("project: %s\n---\nimage: ~\ndockerfile: %s\ncontext: .\n",
		strconv.Quote(projectOf(s.Dir)), strconv.Quote(path.Clean(filepath.ToSlash(s.Quick.Dockerfile))))
	if s.Quick.Target != "" {
		text += "target: " + strconv.Quote(s.Quick.Target) + "\n"
	}
	var err error
	p.Config, err = config.Load(ctx, config.Input{Path: "--dockerfile", Data: []byte(text), Files: p.Tree, Env: func(string) (string, bool) { return "", false }})
	return err
}

// projectOf makes a project's name of the name of a directory.
func projectOf(dir string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(dir)))
	name = strings.Trim(name, "-")
	if name == "" {
		return "project"
	}
	return strings.TrimRight(name[:min(len(name), maxQuickName)], "-")
}

// maxQuickName bounds the name of a project without a configuration.
const maxQuickName = 40
