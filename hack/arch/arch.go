// Package arch checks the shape of the source tree: who imports whom, what a
// package must say about itself, and what must not be in it. Its tests run the
// checks on the tree; each check is also shown to fail on a small wrong example.
//
// The checks are functions that return what is wrong as sentences, so that one
// run reports everything.
package arch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Module is the path of the main module.
const Module = "github.com/cairnbuild/cairn"

// Package is what "go list" says about one package.
type Package struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	GoFiles    []string
	// Imports are those of the package, without its tests'.
	Imports []string
}

// Path returns the import path inside the module, "." for its root.
func (p Package) Path() string {
	if p.ImportPath == Module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, Module+"/")
}

// List runs "go list" with args in dir.
func List(ctx context.Context, dir string, args ...string) ([]Package, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Name,Dir,Doc,GoFiles,Imports"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	var list []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		list = append(list, p)
	}
}

// Imports reports imports that the table of rooms does not allow, and packages
// that are in no room.
func Imports(rooms []Room, list []Package) []string {
	var wrong []string
	for _, p := range list {
		room, ok := roomOf(rooms, p.Path())
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s is in no room: add it to hack/arch/rooms.go", p.Path()))
			continue
		}
		for _, path := range p.Imports {
			if !room.allows(path) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s; room %s may import only %s", p.Path(), path, room.Path, room.words()))
			}
		}
	}
	return wrong
}

// Names reports packages whose name says nothing.
func Names(list []Package) []string {
	var wrong []string
	for _, p := range list {
		for _, part := range strings.Split(p.Path(), "/") {
			switch part {
			case "util", "utils", "common", "manager", "managers", "helper", "helpers", "misc":
				wrong = append(wrong, fmt.Sprintf("%s: %q says nothing about what is inside", p.Path(), part))
			}
		}
	}
	return wrong
}

// Docs reports packages without a package comment.
func Docs(list []Package) []string {
	var wrong []string
	for _, p := range list {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			wrong = append(wrong, p.Path()+" has no package comment that says its one job")
		}
	}
	return wrong
}

// Links reports what of the forbidden import path prefixes is in deps.
func Links(deps []Package, forbidden []string) []string {
	var wrong []string
	for _, p := range deps {
		if slices.ContainsFunc(forbidden, func(f string) bool { return within(p.ImportPath, f) }) {
			wrong = append(wrong, "it links "+p.ImportPath)
		}
	}
	return wrong
}

// within reports whether path is prefix or below it.
func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
