package assemble

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Limits of what a layer may hold, against hostile ones. Real images stay far below.
const (
	maxPath  = 4096
	maxName  = 255
	maxNodes = 2 << 20
)

// ErrLayer is wrapped by errors about layers that are damaged or hostile.
var ErrLayer = errors.New("unusable layer")

type nodeKind byte

const (
	kindDir nodeKind = iota + 1
	kindLink
	// The following stand in changes only: tables know directories and links.
	kindFile
	kindGone
)

// node is an entry of a tree of paths. Nodes of [Tables] are never changed;
// trees share them.
type node struct {
	kind   nodeKind
	target string           // of a link, verbatim
	below  map[string]*node // of a directory
	// opaque directories of changes hide what the layers below have in them.
	opaque bool
}

func newDir() *node { return &node{kind: kindDir} }

func (n *node) child(name string) *node {
	if n == nil || n.kind != kindDir {
		return nil
	}
	return n.below[name]
}

// find returns the entry at a clean path without a leading slash, nil where
// none is known. It follows no links.
func (n *node) find(p string) *node {
	for rest, name := p, ""; rest != "" && n != nil; {
		name, rest, _ = strings.Cut(rest, "/")
		n = n.child(name)
	}
	return n
}

// merge returns below with the changes of a layer on top. It changes neither.
func merge(below, changes *node) *node {
	switch changes.kind {
	case kindFile, kindGone:
		return nil
	case kindLink:
		return changes
	}
	out := newDir()
	if below != nil && below.kind == kindDir && !changes.opaque {
		if len(changes.below) == 0 {
			return below
		}
		out.below = make(map[string]*node, len(below.below)+len(changes.below))
		for name, n := range below.below {
			out.below[name] = n
		}
	}
	for name, c := range changes.below {
		n := merge(out.below[name], c)
		if n == nil {
			delete(out.below, name)
			continue
		}
		if out.below == nil {
			out.below = make(map[string]*node, len(changes.below))
		}
		out.below[name] = n
	}
	return out
}

// changes is what one layer does to the tables of the image below it.
type changes struct {
	root *node
	// files and gone stand for all files and whiteouts: these have no state of
	// their own, and a layer may have a million.
	files, gone *node
	nodes       int

	// users and groups are the files that the layer has, nil when it has none.
	users, groups *accounts
}

func newChanges() *changes {
	return &changes{root: newDir(), files: &node{kind: kindFile}, gone: &node{kind: kindGone}}
}

// contain makes the name of an archive's entry a clean path inside the root,
// without a leading slash; the root itself is "".
func contain(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("%w: a path of %d bytes", ErrLayer, len(name))
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%w: a path with a zero byte", ErrLayer)
	}
	return path.Clean("/" + name)[1:], nil
}

// parent returns the directory node at dir, which it makes where it is missing:
// archives may leave out the entries of directories. It returns nil where dir
// lies below something of the same layer that is no directory.
func (c *changes) parent(dir string) (*node, error) {
	n := c.root
	for rest, name := dir, ""; rest != ""; {
		name, rest, _ = strings.Cut(rest, "/")
		next := n.below[name]
		switch {
		case next == nil, next == c.gone:
			made := &node{kind: kindDir, opaque: next == c.gone}
			if err := c.set(n, name, made); err != nil {
				return nil, err
			}
			next = made
		case next.kind != kindDir:
			return nil, nil
		}
		n = next
	}
	return n, nil
}

func (c *changes) set(dir *node, name string, n *node) error {
	if len(name) > maxName {
		return fmt.Errorf("%w: a file name of %d bytes", ErrLayer, len(name))
	}
	if dir.below == nil {
		dir.below = make(map[string]*node)
	}
	if _, ok := dir.below[name]; !ok {
		if c.nodes++; c.nodes > maxNodes {
			return fmt.Errorf("%w: more than %d entries", ErrLayer, maxNodes)
		}
	}
	dir.below[name] = n
	return nil
}

// put records an entry of the layer at a contained path. A later entry of the
// same path replaces an earlier one, as it does on extraction.
func (c *changes) put(p string, n *node) error {
	dir, name := path.Split(p)
	at, err := c.parent(strings.TrimSuffix(dir, "/"))
	if err != nil || at == nil || name == "" {
		return err
	}
	if n.kind == kindDir {
		switch old := at.below[name]; {
		case old == c.gone:
			n.opaque = true
		case old != nil && old.kind == kindDir:
			return nil
		}
	}
	return c.set(at, name, n)
}

// Names of the files by which a layer removes what is below it; see the
// "Whiteouts" section of the OCI image layer specification.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh."
)

// remove records a whiteout at the path of its file. It acts on the layers
// below only, wherever in the archive it stands.
func (c *changes) remove(p string) error {
	dir, name := path.Split(p)
	at, err := c.parent(strings.TrimSuffix(dir, "/"))
	if err != nil || at == nil {
		return err
	}
	if name == whiteoutOpaque {
		at.opaque = true
		return nil
	}
	name = strings.TrimPrefix(name, whiteoutPrefix)
	if strings.HasPrefix(name, whiteoutPrefix) || name == "" {
		return nil // what aufs kept for itself
	}
	switch old := at.below[name]; {
	case old == nil:
		return c.set(at, name, c.gone)
	case old.kind == kindDir:
		old.opaque = true
	}
	return nil
}

func isWhiteout(p string) bool { return strings.HasPrefix(path.Base(p), whiteoutPrefix) }
