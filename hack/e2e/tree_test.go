package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// inode is what a path stands for; hard links share one.
type inode struct {
	kind     byte
	mode     int64
	uid, gid int
	link     string
	content  string
	device   string
	xattrs   string
}

func (n inode) String() string {
	return fmt.Sprintf("%c %04o %d:%d link=%q content=%s device=%s xattrs=%s", n.kind, n.mode, n.uid, n.gid, n.link, n.content, n.device, n.xattrs)
}

// tree is the file system of an image by clean paths without a leading slash.
type tree struct {
	nodes map[string]*inode
	// problems are entries that two tools could take differently.
	problems []string
}

// pull returns an image of a registry.
func pull(t *testing.T, ref string, opts ...remote.Option) v1.Image {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r, append(opts, remote.WithContext(t.Context()))...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// readTree applies an image's layers in their order.
func readTree(t *testing.T, img v1.Image) *tree {
	t.Helper()
	// The root has these attributes in engines whether or not a layer says so.
	tr := &tree{nodes: map[string]*inode{"": {kind: tar.TypeDir, mode: 0o755}}}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		if err := tr.apply(l); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	for _, p := range tr.problems {
		t.Error("ambiguous layer: " + p)
	}
	return tr
}

func (tr *tree) apply(l v1.Layer) error {
	rc, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	seen := map[string]bool{}
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if seen[p] {
			tr.problems = append(tr.problems, fmt.Sprintf("%q occurs twice", p))
		}
		seen[p] = true
		if err := tr.add(p, h, r, seen); err != nil {
			return err
		}
	}
}

const whiteout = ".wh."

func (tr *tree) add(p string, h *tar.Header, content io.Reader, fresh map[string]bool) error {
	dir, base := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	tr.parents(dir)
	switch {
	case base == ".wh..wh..opq":
		for _, below := range tr.below(dir) {
			if !fresh[below] {
				delete(tr.nodes, below)
			}
		}
		return nil
	case strings.HasPrefix(base, whiteout):
		tr.remove(path.Join(dir, strings.TrimPrefix(base, whiteout)))
		return nil
	case h.Typeflag == tar.TypeLink:
		target, ok := tr.nodes[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]
		if !ok {
			return fmt.Errorf("%q is a link to %q, which is not there", p, h.Linkname)
		}
		tr.remove(p)
		tr.nodes[p] = target
		return nil
	}
	n, err := newInode(h, content)
	if err != nil {
		return err
	}
	if old := tr.nodes[p]; old == nil || old.kind != tar.TypeDir || n.kind != tar.TypeDir {
		tr.remove(p)
	}
	tr.nodes[p] = n
	return nil
}

// parents adds directories that no entry gives, as engines do.
func (tr *tree) parents(dir string) {
	if dir == "" || dir == "." {
		return
	}
	tr.parents(path.Dir(dir))
	switch n := tr.nodes[dir]; {
	case n == nil:
		tr.nodes[dir] = &inode{kind: tar.TypeDir, mode: 0o755}
	case n.kind != tar.TypeDir:
		tr.problems = append(tr.problems, fmt.Sprintf("something is below %q, which is %v", dir, n))
	}
}

func (tr *tree) below(dir string) []string {
	var out []string
	for p := range tr.nodes {
		if strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out
}

func (tr *tree) remove(p string) {
	if n := tr.nodes[p]; n != nil && n.kind == tar.TypeDir {
		for _, b := range tr.below(p) {
			delete(tr.nodes, b)
		}
	}
	delete(tr.nodes, p)
}

func newInode(h *tar.Header, content io.Reader) (*inode, error) {
	n := &inode{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, link: h.Linkname}
	switch h.Typeflag {
	case tar.TypeReg:
		b, err := io.ReadAll(content)
		if err != nil {
			return nil, err
		}
		n.content = contentOf(string(b))
	case tar.TypeChar, tar.TypeBlock:
		n.device = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
	case tar.TypeSymlink:
		n.mode = 0o777 // a symbolic link has no mode
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			n.xattrs += fmt.Sprintf("%s=%q;", x, h.PAXRecords[k])
		}
	}
	return n, nil
}

// contentOf stands for the content of a file.
func contentOf(s string) string { return fmt.Sprintf("%d:%x", len(s), sha256.Sum256([]byte(s))) }

// linked returns the paths that share an inode with p, itself included.
func (tr *tree) linked() map[*inode]string {
	all := map[*inode][]string{}
	for p, n := range tr.nodes {
		all[n] = append(all[n], p)
	}
	out := map[*inode]string{}
	for n, paths := range all {
		slices.Sort(paths)
		out[n] = strings.Join(paths, " = ")
	}
	return out
}

// diffTrees returns what is different in two trees, a line for each path.
func diffTrees(got, want *tree) []string {
	gotLinks, wantLinks := got.linked(), want.linked()
	var out []string
	for p, w := range want.nodes {
		switch g := got.nodes[p]; {
		case g == nil:
			out = append(out, fmt.Sprintf("%q is missing: %v", p, w))
		case *g != *w:
			out = append(out, fmt.Sprintf("%q is\n   %v, want\n   %v", p, g, w))
		case gotLinks[g] != wantLinks[w]:
			out = append(out, fmt.Sprintf("%q is linked as %s, want %s", p, gotLinks[g], wantLinks[w]))
		}
	}
	for p, g := range got.nodes {
		if want.nodes[p] == nil {
			out = append(out, fmt.Sprintf("%q should not be there: %v", p, g))
		}
	}
	slices.Sort(out)
	return out
}

// file returns the content of a regular file in the topmost layer that has it.
func file(t *testing.T, img v1.Image, p string) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range slices.Backward(layers) {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		found, content := fileIn(t, rc, p)
		rc.Close()
		if found {
			return content
		}
	}
	t.Fatalf("the image has no file %s", p)
	return ""
}

func fileIn(t *testing.T, r io.Reader, p string) (bool, string) {
	t.Helper()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return false, ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if path.Clean("/"+h.Name) == p && h.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return true, string(b)
		}
	}
}
