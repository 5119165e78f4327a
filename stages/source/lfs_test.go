package source

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func pointerTo(content string) pointer {
	return pointer{oid: fmt.Sprintf("%x", sha256.Sum256([]byte(content))), size: int64(len(content))}
}

// store puts a content into a directory of Git LFS objects.
func store(t testing.TB, dir, content string) string {
	t.Helper()
	oid := pointerTo(content).oid
	name := filepath.Join(dir, oid[:2], oid[2:4], oid)
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(content), 0o644))
	return name
}

// lfsRepo has files of Git LFS with their contents, as a clone with it has.
func lfsRepo(t testing.TB) *testRepo {
	r := newRepo(t)
	r.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	for name, content := range map[string]string{"a.bin": "the content of a", "dir/b.bin": strings.Repeat("long ", 1000)} {
		r.write(name, string(pointerTo(content).encode()))
		store(t, filepath.Join(r.dir, ".git/lfs/objects"), content)
	}
	r.write("committed.bin", "was committed before the attributes were")
	r.write("empty.bin", "")
	r.write("pointer.txt", string(pointerTo("the content of a").encode()))
	r.commit()
	return r
}

// smudge does to the work tree what Git LFS does.
func (r *testRepo) smudge() {
	r.write("a.bin", "the content of a")
	r.write("dir/b.bin", strings.Repeat("long ", 1000))
}

func readAll(t *testing.T, tree *Tree) map[string]string {
	t.Helper()
	files, err := tree.Files(everything())
	must(t, err)
	sizes, err := tree.Sizes(t.Context(), files)
	must(t, err)
	reader := tree.Reader()
	out := make(map[string]string)
	must(t, tree.Contents(t.Context(), files, func(f File, size int64, r io.Reader) error {
		b, err := io.ReadAll(r)
		if size != int64(len(b)) || sizes[len(out)] != size {
			t.Errorf("%s has %d bytes, the sizes are %d and %d", f.Path, len(b), size, sizes[len(out)])
		}
		out[f.Path] = string(b)
		return err
	}))
	for _, f := range files {
		rc, err := reader.Open(t.Context(), f)
		must(t, err)
		b, err := io.ReadAll(rc)
		must(t, errors.Join(err, rc.Close()))
		if string(b) != out[f.Path] {
			t.Errorf("%s is %q alone and %q with others", f.Path, b, out[f.Path])
		}
	}
	must(t, reader.Close())
	return out
}

func TestContentsOfLFSComeFromItsStore(t *testing.T) {
	r := lfsRepo(t)
	want := map[string]string{
		"a.bin": "the content of a", "dir/b.bin": strings.Repeat("long ", 1000), "empty.bin": "",
		"committed.bin": "was committed before the attributes were", "pointer.txt": string(pointerTo("the content of a").encode()),
	}
	check := func(t *testing.T, tree *Tree) {
		t.Helper()
		got := readAll(t, tree)
		for path, content := range want {
			if got[path] != content {
				t.Errorf("%s holds %q", path, got[path])
			}
		}
	}
	id := identity(t, r.tree(), everything())
	t.Run("commit", func(t *testing.T) { check(t, r.tree()) })
	t.Run("a directory of the repository", func(t *testing.T) {
		if b, err := r.at("dir").tree().Read(t.Context(), "b.bin"); err != nil || string(b) != want["dir/b.bin"] {
			t.Errorf("attributes above the project do not count: %d bytes, %v", len(b), err)
		}
		r.smudge()
		work, err := r.at("dir").open().WorkTree(t.Context())
		must(t, err)
		if identity(t, work, everything()) != identity(t, r.at("dir").tree(), everything()) {
			t.Error("the work tree has another identity")
		}
	})
	t.Run("work tree", func(t *testing.T) {
		r.smudge()
		work, err := r.open().WorkTree(t.Context())
		must(t, err)
		check(t, work)
		if got := identity(t, work, everything()); got != id {
			t.Errorf("identity %s, want that of the commit, %s", got, id)
		}
		r.write("a.bin", "a new content")
		work, err = r.open().WorkTree(t.Context())
		must(t, err)
		b, err := work.Read(t.Context(), "a.bin")
		if must(t, err); string(b) != "a new content" {
			t.Errorf("a.bin holds %q", b)
		}
		r.git("checkout", "-q", ".")
		r.write("a.bin", string(pointerTo("a new content").encode()))
		r.commit()
		if identity(t, work, everything()) != identity(t, r.tree(), everything()) {
			t.Error("what Git LFS commits has another identity")
		}
		r.git("reset", "-q", "--hard", "HEAD~1")
	})
	t.Run("work tree without contents", func(t *testing.T) {
		work, err := r.open().WorkTree(t.Context())
		must(t, err)
		check(t, work)
		if got := identity(t, work, everything()); got != id {
			t.Errorf("identity %s, want that of the commit, %s", got, id)
		}
	})
	t.Run("lfs.storage", func(t *testing.T) {
		elsewhere := filepath.Join(t.TempDir(), "lfs")
		must(t, os.Rename(filepath.Join(r.dir, ".git/lfs"), elsewhere))
		r.git("config", "lfs.storage", elsewhere)
		check(t, r.tree())
		must(t, os.Rename(elsewhere, filepath.Join(r.dir, ".git/other")))
		r.git("config", "lfs.storage", "other")
		check(t, r.tree())
	})
	t.Run("a submodule has its own", func(t *testing.T) {
		super := newRepo(t)
		super.write("x.bin", "not of Git LFS here")
		super.commit()
		super.addSubmodule(r, "media")
		var e *Error
		if _, err := super.tree().Read(t.Context(), "media/a.bin"); !errors.Is(err, ErrLFSMissing) || !errors.As(err, &e) || !strings.Contains(e.Hint, "git -C media lfs pull") {
			t.Errorf("a content that is not there: %v", err)
		}
		store(t, filepath.Join(super.dir, ".git/modules/media/lfs/objects"), want["a.bin"])
		if b, err := super.tree().Read(t.Context(), "media/a.bin"); err != nil || string(b) != want["a.bin"] {
			t.Errorf("media/a.bin holds %q, %v", b, err)
		}
	})
}

// The same blob is a content with the attribute and a text without it.
func TestTheAttributeOfLFSIsPartOfTheIdentity(t *testing.T) {
	r := lfsRepo(t)
	before := identity(t, r.tree(), everything())
	sel := everything()
	sel.Mapping.ExcludePaths = []string{".gitattributes"}
	with := identity(t, r.tree(), sel)
	r.write(".gitattributes", "")
	r.commit()
	if identity(t, r.tree(), sel) == with || identity(t, r.tree(), everything()) == before {
		t.Error("without the attribute the identity is the same")
	}
}

func TestWhatIsWrongWithAnLFSContentIsSaid(t *testing.T) {
	content := "the content of a"
	p := pointerTo(content)
	for _, tt := range []struct {
		name, pointer, stored string
		want                  error
		says                  string
	}{
		{"it is missing", string(p.encode()), "", ErrLFSMissing, `"a.bin"`},
		{"the pointer has another size", string(pointer{p.oid, 3}.encode()), content, ErrCorrupt, "the object has 16 bytes, the pointer says 3"},
		{"the stored content is cut off", string(p.encode()), content[:4], ErrCorrupt, "the object has 4 bytes"},
		{"the stored content is another", string(p.encode()), "the content of b", ErrCorrupt, "another sha256"},
		{"a pointer of another hash", lfsPointer + "\noid md5:00\nsize 1\n", "", ErrLFSPointer, "want the lines"},
		{"a pointer with an extension", lfsPointer + "\next-0-x sha256:" + p.oid + "\noid sha256:" + p.oid + "\nsize 16\n", content, ErrLFSPointer, "nothing else"},
		{"a pointer that leaves the store", lfsPointer + "\noid sha256:../../../../etc/passwd\nsize 1\n", "", ErrLFSPointer, "want the lines"},
		{"a size beyond all numbers", lfsPointer + "\noid sha256:" + p.oid + "\nsize 9999999999999999999\n", "", ErrLFSPointer, "out of range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRepo(t)
			r.write(".gitattributes", "*.bin filter=lfs\n")
			r.write("a.bin", tt.pointer)
			r.commit()
			if tt.stored != "" {
				name := store(t, filepath.Join(r.dir, ".git/lfs/objects"), content)
				must(t, os.WriteFile(name, []byte(tt.stored), 0o644))
			}
			tree := r.tree()
			identity(t, tree, everything()) // a plan needs no contents
			_, err := tree.Read(t.Context(), "a.bin")
			var e *Error
			if !errors.Is(err, tt.want) || !errors.As(err, &e) || !strings.Contains(err.Error(), tt.says) || e.Hint == "" {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.says)
			}
			reader := tree.Reader()
			files, err := tree.Files(everything())
			must(t, err)
			for _, f := range files {
				rc, err := reader.Open(t.Context(), f)
				if (err == nil) != (f.Path != "a.bin") {
					t.Errorf("%s: %v", f.Path, err)
				}
				must(t, closeIf(rc))
			}
			must(t, reader.Close())
		})
	}
}

// attributesInGit asks git itself which paths have the filter.
func attributesInGit(t interface{ Fatalf(string, ...any) }, dir string, names []string) map[string]bool {
	cmd := exec.Command("git", "-c", "core.attributesFile="+os.DevNull, "check-attr", "-z", "--stdin", "filter")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(names, "\x00")+"\x00")
	cmd.Env = append(gitEnvironment(os.Environ()), "GIT_ATTR_NOSYSTEM=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git check-attr: %v", err)
	}
	answers := make(map[string]bool)
	fields := bytes.Split(out, []byte{0})
	for i := 0; i+2 < len(fields); i += 3 {
		answers[string(fields[i])] = string(fields[i+2]) == "lfs"
	}
	return answers
}

func TestAttributesMeanWhatGitTakesThemFor(t *testing.T) {
	r := newRepo(t)
	names := []string{
		"a.bin", "a.BIN", "x/a.bin", "x/y/a.bin", "x/y/b", "x/b", "b", "x y/c", "{a,b}", "a", "x/[b]", "x/y/z/a.bin", ".bin", "x/.gitattributes",
		"a-b", "ab", "a/b/c", "é.bin", "x/é", "*", `x\y`, "a1", "b2/c",
	}
	patterns := []string{
		"*.bin", "*", "a*", "x/*", "x/**", "**/a.bin", "x/**/a.bin", "/a.bin", "/b", "b", "y/", "x/y", "[ab].bin", "[!a]*", "?", "x/?", "*.[bB][iI][nN]",
		`"x y/c"`, "{a,b}", "**", "**/y/**", "x/**y/b", `\*`, `\b`, "[[:digit:]a]*", "a[0-9]", "[a-", "!b", "*.*", "*a*", "a/**/c", "/**/b", "[]-a]*", `"\303\251.bin"`, "[é]*", "x\\[b\\]", "***", "[attr]big", "a-*",
	}
	words := []string{"filter=lfs", "-filter", "!filter", "filter", "filter=other", "text", "-text filter=lfs", "big", "-big", "filter=lfs -filter", "big filter=lfs", "!big", "diff=lfs"}
	file := rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "lines") {
			fmt.Fprintf(&b, "%s %s\n", rapid.SampledFrom(patterns).Draw(t, "pattern"), rapid.SampledFrom(words).Draw(t, "words"))
		}
		return b.String()
	})
	rapid.Check(t, func(rt *rapid.T) {
		texts := map[string]string{"": file.Draw(rt, "root")}
		if rapid.Bool().Draw(rt, "macro") {
			texts[""] = "[attr]big filter=lfs\n" + texts[""]
		}
		for _, dir := range []string{"x", "x/y"} {
			if rapid.Bool().Draw(rt, "below") {
				texts[dir] = file.Draw(rt, dir)
			}
		}
		for _, dir := range []string{"", "x", "x/y"} {
			r.write(joinDir(dir, attributesFile), texts[dir])
		}
		a := newAttributes(texts)
		for name, want := range attributesInGit(rt, r.dir, names) {
			if got := a.isLFS(name); got != want {
				rt.Fatalf("%q is of Git LFS: %v, for git %v; attributes %q", name, got, want, texts)
			}
		}
	})
}

func BenchmarkAttributesOf50000Files(b *testing.B) {
	tree := benchTree(b, 50_000)
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "*.ext%d filter=lfs diff=lfs merge=lfs -text\nassets%d/** filter=lfs\n", i, i)
	}
	for b.Loop() {
		tree.files.mark(newAttributes(map[string]string{"": text.String(), "services": "*.bin filter=lfs\n"}), "")
	}
}

func FuzzPointer(f *testing.F) {
	f.Add(pointerTo("x").encode())
	f.Add([]byte(lfsPointer + "\noid sha256:00\nsize 1\n"))
	f.Add(append(pointerTo("x").encode(), "x"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePointer(b)
		if err == nil && (!bytes.Equal(p.encode(), b) || p.size < 0 || len(p.oid) != 64 || len(b) >= lfsPointerMax) {
			t.Errorf("%q was read as %+v", b, p)
		}
		if _, ok, err := pointed(File{LFS: true}, b); ok == (err != nil) && looksLikePointer(b) {
			t.Errorf("%q: %v, %v", b, ok, err)
		}
	})
}

func FuzzAttributes(f *testing.F) {
	f.Add("*.bin filter=lfs\n", "a/b.bin")
	f.Add("[attr]m m filter=lfs\n\"a b/**\" m\n[a-]x !filter", "a b/c")
	f.Fuzz(func(t *testing.T, text, name string) {
		a := newAttributes(map[string]string{"": text})
		if a.isLFS(name) && !a.lfs {
			t.Errorf("%q has the filter, and no rule gives it", name)
		}
	})
}
