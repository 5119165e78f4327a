package dockerfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/cairnbuild/cairn/stages"
	gitsource "github.com/cairnbuild/cairn/stages/source"
)

// identityHeader begins what the identity of a context is the digest of.
const identityHeader = "cairn context 1\n"

// lfsMark cannot be taken for the length of an id.
const lfsMark = 'L'

// ignoreName is the file that says what is no part of a context.
const ignoreName = ".dockerignore"

// Selection returns the files of a context directory as a mapping, for whoever
// reads their contents.
func Selection(dir string) stages.Selection {
	return stages.Selection{Mapping: &stages.Mapping{Add: dir, To: "/"}, Kind: stages.KindSource, Whole: true, Absent: true}
}

// contextOf is what instructions can take of a context.
type contextOf struct {
	g *graph
	// kept are the files that are not ignored.
	all, kept []gitsource.File
	// ignoredBy is the file that says what is ignored.
	ignoredBy string
}

// readContext reads the context, where something is taken of it.
func (g *graph) readContext(ctx context.Context, files Files, takes []take) (*contextOf, error) {
	c := &contextOf{g: g}
	if len(takes) == 0 {
		return c, nil
	}
	var err error
	if c.all, err = files.Files(Selection(g.opts.Context)); err != nil {
		return nil, fmt.Errorf("context of %s: %w", g.name, err)
	}
	var ignored *ignorer
	if ignored, c.ignoredBy, err = g.ignored(ctx, files); err != nil {
		return nil, err
	}
	for _, f := range c.all {
		out, err := ignored.matches(f.Path)
		if err != nil {
			return nil, &Error{File: c.ignoredBy, Message: err.Error(), Err: err}
		}
		if !out {
			c.kept = append(c.kept, f)
		}
	}
	return c, nil
}

// taken returns the files that takes are about.
func (c *contextOf) taken(takes []take) ([]gitsource.File, error) {
	chosen := make([]bool, len(c.kept))
	for _, t := range takes {
		n, err := t.choose(c.kept, chosen)
		if err != nil {
			return nil, c.g.errorf(t.line, "", "%s: %v", t.word, err)
		}
		if n == 0 && t.path != "" && !hasMeta(t.path) {
			return nil, c.g.missing(t, c.all, c.ignoredBy)
		}
	}
	var out []gitsource.File
	for i, f := range c.kept {
		if !chosen[i] {
			continue
		}
		if f.Absent != nil {
			return nil, fmt.Errorf("context of %s: %w", c.g.name, gitsource.OrElse(f.Absent, "leave it out of the context with a line "+f.Path+" in "+c.ignoredBy))
		}
		out = append(out, f)
	}
	return out, nil
}

// note tells a recipe and a source which files are taken.
func (c *contextOf) note(takes []take, r *stages.Dockerfile, src *stages.DockerfileSource) error {
	files, err := c.taken(takes)
	if err != nil || len(files) == 0 {
		return err
	}
	id, err := identity(files)
	if err != nil {
		return err
	}
	r.Files = &id
	for _, f := range files {
		src.Files = append(src.Files, f.Path)
	}
	return nil
}

// missing says that an instruction names what is not there.
func (g *graph) missing(t take, all []gitsource.File, ignoredBy string) error {
	e := &Error{
		File: g.name, Line: t.line, Message: t.word + " is not in the context",
		Hint: "paths are relative to the context, which is the directory " + g.opts.Context + "; commit the file if it is new",
	}
	if n, err := t.choose(all, make([]bool, len(all))); err == nil && n > 0 {
		e.Message = t.word + " is in the context but " + ignoredBy + " leaves it out"
		e.Hint = "let it in with a line !" + t.path + " in " + ignoredBy
	}
	return g.quote(e, t.word)
}

// choose marks the files that t takes and returns how many there are.
//
// The path may be a pattern, which covers whole components. Where it, or what it
// matches, is a symbolic link, the link is followed, maybe to anywhere in the
// context: then all of it is taken.
func (t take) choose(files []gitsource.File, chosen []bool) (int, error) {
	pattern := strings.Split(t.path, "/")
	all, n := t.all || t.path == "", 0
	for i := range files {
		parts := strings.Split(files[i].Path, "/")
		if !all && files[i].Mode == gitsource.ModeSymlink && len(parts) <= len(pattern) {
			ok, err := matchParts(pattern[:len(parts)], parts)
			if err != nil {
				return 0, err
			}
			all = ok
		}
	}
	for i := range files {
		ok := all
		if !ok {
			parts := strings.Split(files[i].Path, "/")
			var err error
			n := len(pattern)
			if files[i].Absent != nil { // what is in it may be what is wanted
				n = min(n, len(parts))
			}
			if len(parts) >= n {
				if ok, err = matchParts(pattern[:n], parts[:n]); err != nil {
					return 0, err
				}
			}
		}
		if ok {
			chosen[i] = true
			n++
		}
	}
	return n, nil
}

func matchParts(pattern, parts []string) (bool, error) {
	for i, p := range pattern {
		ok, err := path.Match(p, parts[i])
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

func hasMeta(p string) bool { return strings.ContainsAny(p, `*?[\`) }

// ignorer tells which files are no part of the context.
type ignorer struct {
	patterns *patternmatcher.PatternMatcher
	parents  map[string]parent
}

type parent struct {
	out  bool
	info patternmatcher.MatchInfo
}

// ignored reads the ignore file: the Dockerfile's own one, or that of the
// context. It returns the name of the file, too.
func (g *graph) ignored(ctx context.Context, files Files) (*ignorer, string, error) {
	for _, name := range []string{g.name + ignoreName, path.Join(g.opts.Context, ignoreName)} {
		data, err := files.Read(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, name, fmt.Errorf("%s: %w", name, err)
		}
		lines, err := ignorefile.ReadAll(bytes.NewReader(data))
		if err != nil {
			return nil, name, &Error{File: name, Message: err.Error(), Err: err}
		}
		m, err := patternmatcher.New(lines)
		if err != nil {
			return nil, name, &Error{File: name, Message: err.Error(), Err: err}
		}
		return &ignorer{patterns: m, parents: map[string]parent{}}, name, nil
	}
	return &ignorer{}, ignoreName, nil
}

// matches reports whether a file is ignored.
func (i *ignorer) matches(file string) (bool, error) {
	if i.patterns == nil || len(i.patterns.Patterns()) == 0 {
		return false, nil
	}
	p, err := i.match(file)
	return p.out, err
}

func (i *ignorer) match(p string) (parent, error) {
	if known, ok := i.parents[p]; ok {
		return known, nil
	}
	var above parent
	dir := path.Dir(p)
	if dir != "." {
		var err error
		if above, err = i.match(dir); err != nil {
			return parent{}, err
		}
		i.parents[dir] = above
	}
	out, info, err := i.patterns.MatchesUsingParentResults(p, above.info)
	return parent{out, info}, err
}

// identity returns the digest of files: for each one the length of its path in
// four bytes, the path, the mode's six digits, the length of the object id in one
// byte and the id. Where attributes give the file to Git LFS, lfsMark stands before
// the length: the same blob is the content there and a pointer elsewhere.
func identity(files []gitsource.File) (stages.Digest, error) {
	h := sha256.New()
	h.Write([]byte(identityHeader))
	for _, f := range files {
		id, err := hex.DecodeString(f.Object)
		if err != nil {
			return stages.Digest{}, fmt.Errorf("object id of %s: %w", f.Path, err)
		}
		b := binary.BigEndian.AppendUint32(nil, uint32(len(f.Path)))
		b = append(b, f.Path...)
		b = append(b, f.Mode.String()...)
		if f.LFS {
			b = append(b, lfsMark)
		}
		b = append(b, byte(len(id)))
		h.Write(append(b, id...))
	}
	return stages.Digest(h.Sum(nil)), nil
}
