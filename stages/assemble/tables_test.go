package assemble

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLayersChangeTables(t *testing.T) {
	cases := map[string]struct {
		layers [][]string
		dirs   []string
		links  map[string]string
	}{
		"a layer's directories and links are known": {
			layers: [][]string{{"usr/", "usr/lib/", "lib->usr/lib", "usr/lib/libc.so=x"}},
			dirs:   []string{"usr", "usr/lib"}, links: map[string]string{"lib": "usr/lib"},
		},
		"a directory without an entry of its own is known by what is in it": {
			layers: [][]string{{"a/b/c=x"}}, dirs: []string{"a", "a/b"},
		},
		"names may begin with a dot and a slash": {
			layers: [][]string{{"./", "./a/", "/b/", "./c->a"}}, dirs: []string{"a", "b"}, links: map[string]string{"c": "a"},
		},
		"a name that leads out of the root is contained in it": {
			layers: [][]string{{"../../a/"}}, dirs: []string{"a"},
		},
		"a whiteout removes a directory with all that is in it": {
			layers: [][]string{{"a/b/c/", "d/"}, {"a/.wh.b"}}, dirs: []string{"a", "d"},
		},
		"a whiteout removes a link": {
			layers: [][]string{{"l->x"}, {".wh.l"}},
		},
		"an opaque whiteout empties a directory": {
			layers: [][]string{{"a/b/", "a/l->b"}, {"a/", "a/.wh..wh..opq"}}, dirs: []string{"a"},
		},
		"an opaque whiteout leaves what its own layer has, before it and after": {
			layers: [][]string{{"a/old/"}, {"a/x/", "a/.wh..wh..opq", "a/y/"}}, dirs: []string{"a", "a/x", "a/y"},
		},
		"a whiteout and a new directory of the same name hide what was there": {
			layers: [][]string{{"a/old/"}, {".wh.a", "a/new/"}}, dirs: []string{"a", "a/new"},
		},
		"the order of a whiteout and a new directory does not matter": {
			layers: [][]string{{"a/old/"}, {"a/new/", ".wh.a"}}, dirs: []string{"a", "a/new"},
		},
		"a whiteout does not act on its own layer": {
			layers: [][]string{{"a/"}, {"l->x", ".wh.l"}}, dirs: []string{"a"}, links: map[string]string{"l": "x"},
		},
		"a file takes the place of a directory": {
			layers: [][]string{{"a/b/"}, {"a=x"}},
		},
		"a link takes the place of a directory": {
			layers: [][]string{{"a/b/"}, {"a->z"}}, links: map[string]string{"a": "z"},
		},
		"a directory takes the place of a link": {
			layers: [][]string{{"a->z"}, {"a/b/"}}, dirs: []string{"a", "a/b"},
		},
		"a file takes the place of a link": {
			layers: [][]string{{"a->z"}, {"a=x"}},
		},
		"a directory that is named again keeps what is in it": {
			layers: [][]string{{"a/b/"}, {"a/"}}, dirs: []string{"a", "a/b"},
		},
		"the last entry of a path counts": {
			layers: [][]string{{"a/b/", "a->z", "c->d", "c/"}}, dirs: []string{"c"}, links: map[string]string{"a": "z"},
		},
		"what stands below a link of the same layer is not taken for a directory of its own": {
			layers: [][]string{{"l->x", "l/sub/"}}, links: map[string]string{"l": "x"},
		},
		"a hard link to a link is a link": {
			layers: [][]string{{"l->x", "m=>l", "n=>nothing"}}, links: map[string]string{"l": "x", "m": "x"},
		},
		"aufs's own entries are passed over": {
			layers: [][]string{{".wh..wh.plnk/", ".wh..wh.aufs=", "a/"}}, dirs: []string{"a"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			got := tablesOf(t, layers...)
			equalLines(t, "directories", directories(got), c.dirs...)
			equal(t, "links", fmt.Sprint(linksOf(got)), fmt.Sprint(noneIfNil(c.links)))
			text, ok := got.Encode()
			again, err := DecodeTables(text)
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			equalLines(t, "directories after decoding", directories(again), c.dirs...)
			equal(t, "links after decoding", fmt.Sprint(linksOf(again)), fmt.Sprint(noneIfNil(c.links)))
		})
	}
}

func noneIfNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// directories returns the paths of all directories but the root, sorted by their
// names at each level.
func directories(t *Tables) []string {
	var out []string
	var walk func(prefix string, n *node)
	walk = func(prefix string, n *node) {
		for _, name := range slices.Sorted(maps.Keys(n.below)) {
			if c := n.below[name]; c.kind == kindDir {
				out = append(out, prefix+name)
				walk(prefix+name+"/", c)
			}
		}
	}
	walk("", t.root)
	return out
}

func linksOf(t *Tables) map[string]string {
	out := map[string]string{}
	var walk func(string, *node)
	walk = func(p string, n *node) {
		for name, c := range n.below {
			if c.kind == kindLink {
				out[cleanJoin(p, name)] = c.target
			}
			walk(cleanJoin(p, name), c)
		}
	}
	walk("", t.root)
	return out
}

// TestTablesAgreeWithAFileSystem compares with the plainest model there is: a
// map of all paths, changed as an unpacker would change it.
func TestTablesAgreeWithAFileSystem(t *testing.T) {
	paths := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a"}
	rapid.Check(t, func(rt *rapid.T) {
		model := map[string]string{}
		got := emptyTables()
		for range rapid.IntRange(1, 5).Draw(rt, "layers") {
			entries := rapid.MapOf(rapid.SampledFrom(paths), rapid.SampledFrom([]string{"dir", "file", "link", "gone", "opaque"})).Draw(rt, "layer")
			raw := layerFor(t, model, entries)
			c, err := scan(bytes.NewReader(raw))
			if err != nil {
				rt.Fatal(err)
			}
			got = got.apply(c)
		}
		want := slices.DeleteFunc(slices.Sorted(maps.Keys(model)), func(p string) bool { return model[p] != "dir" })
		if dirs := slices.Sorted(slices.Values(directories(got))); !slices.Equal(dirs, want) {
			rt.Fatalf("directories %v, want %v", dirs, want)
		}
		for p, kind := range model {
			if _, ok := got.Link(p); ok != (kind == "link") {
				rt.Fatalf("%s is a link: %v, want %v", p, ok, !ok)
			}
		}
	})
}

// layerFor writes a layer of entries, in an order in which none is below a file,
// and applies it to the model.
func layerFor(t *testing.T, model, entries map[string]string) []byte {
	removeBelow := func(p string) {
		maps.DeleteFunc(model, func(q, _ string) bool { return strings.HasPrefix(q, p+"/") })
	}
	var lines []string
	blocked := func(p string) bool {
		for q := p; strings.Contains(q, "/"); {
			q = q[:strings.LastIndexByte(q, '/')]
			if k, ok := entries[q]; ok && k != "dir" && k != "opaque" {
				return true
			}
		}
		return false
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(entries)), blocked)
	for _, p := range names { // removals act on the layers below only: first
		switch entries[p] {
		case "gone":
			removeBelow(p)
			delete(model, p)
			lines = append(lines, parentOf(p)+"/.wh."+p[strings.LastIndexByte(p, '/')+1:])
		case "opaque":
			removeBelow(p)
			lines = append(lines, p+"/.wh..wh..opq")
		}
	}
	makeParents := func(p string) {
		for q := parentOf(p); q != ""; q = parentOf(q) {
			model[q] = "dir"
		}
	}
	for _, p := range names {
		makeParents(p)
		switch entries[p] {
		case "dir", "opaque":
			model[p] = "dir"
			lines = append(lines, p+"/")
		case "file":
			removeBelow(p)
			model[p] = "file"
			lines = append(lines, p+"=x")
		case "link":
			removeBelow(p)
			model[p] = "link"
			lines = append(lines, p+"->target")
		}
	}
	return archive(t, lines...)
}

func TestNamesOfUsers(t *testing.T) {
	const passwd = "etc/passwd=root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:\n"
	cases := map[string]struct {
		layers [][]string
		name   string
		want   int
		fails  bool
	}{
		"a name of the file":                           {layers: [][]string{{passwd}}, name: "app", want: 1000},
		"no name is root":                              {name: "", want: 0},
		"a number needs no file":                       {name: "1234", want: 1234},
		"the largest number is nobody's":               {name: "4294967295", fails: true},
		"an image without a file knows no name":        {name: "app", fails: true},
		"a later file replaces the earlier one":        {layers: [][]string{{passwd}, {"etc/passwd=new:x:7:7::/:\n"}}, name: "app", fails: true},
		"a later layer without the file keeps it":      {layers: [][]string{{passwd}, {"etc/hosts=x"}}, name: "app", want: 1000},
		"a removed file knows no name":                 {layers: [][]string{{passwd}, {"etc/.wh.passwd"}}, name: "app", fails: true},
		"a removed directory takes it along":           {layers: [][]string{{passwd}, {".wh.etc"}}, name: "app", fails: true},
		"an emptied directory takes it along":          {layers: [][]string{{passwd}, {"etc/.wh..wh..opq"}}, name: "app", fails: true},
		"a directory replaced by a link takes it away": {layers: [][]string{{passwd}, {"etc->usr/etc"}}, name: "app", fails: true},
		"a link in its place cannot be read":           {layers: [][]string{{passwd}, {"etc/passwd->../usr/passwd"}}, name: "app", fails: true},
		"a hard link in its place cannot be read":      {layers: [][]string{{"etc/a=x", "etc/passwd=>etc/a"}}, name: "app", fails: true},
		"an emptied and refilled directory has it":     {layers: [][]string{{passwd}, {"etc/.wh..wh..opq", "etc/passwd=new:x:7:7::/:\n"}}, name: "new", want: 7},
		"the last entry of the file counts":            {layers: [][]string{{passwd, "etc/passwd=new:x:7:7::/:\n"}}, name: "app", fails: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			got, err := tablesOf(t, layers...).User(c.name)
			if (err != nil) != c.fails {
				t.Fatal(got, err)
			}
			equal(t, "number", got, c.want)
		})
	}
}

func TestAnUnknownNameListsSomeOfTheKnownOnes(t *testing.T) {
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "u%02d:x:%d:\n", i, 100-i)
	}
	_, err := tablesOf(t, archive(t, "etc/group="+lines.String())).Group("web")
	if !errors.Is(err, ErrUnknownName) {
		t.Fatal(err)
	}
	equal(t, "error", err.Error(), `unknown name "web": /etc/group of the image below has `+
		"u99, u98, u97, u96, u95, u94, u93, u92, u91, u90, u89, u88 and 88 more")
}

func TestParseAccountsPassesOverWhatTheCLibraryWould(t *testing.T) {
	got := parseAccounts([]byte("root:x:0:0\n# a comment:x:1:\n+nis:x:2:\n\nshort:x\nbad:x:y:\nneg:x:-1:\ntwice:x:3:\ntwice:x:4:\r\n" +
		"sp ace:x:5:\n\x00:x:6:\nlast:x:9"))
	equal(t, "names", got.some(), "root, twice, last")
	equal(t, "the first line of a name counts", got.ids["twice"], 3)
}

func debianTables(t testing.TB) *Tables {
	lines := []string{
		"bin->usr/bin", "lib->usr/lib", "sbin->usr/sbin", "etc/", "root/", "tmp/", "var/", "var/run->/run", "run/", "run/lock/",
		"etc/passwd=root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:\n", "etc/group=root:x:0:\nwww-data:x:33:\n",
	}
	for i := range 50 {
		lines = append(lines, fmt.Sprintf("usr/share/doc/package-%d/", i))
	}
	return tablesOf(t, archive(t, append(lines, "usr/bin/", "usr/lib/", "usr/sbin/")...))
}

func TestTheEncodingOfTablesIsPinned(t *testing.T) {
	got, ok := debianTables(t).Encode()
	if !ok {
		t.Fatal("too large")
	}
	// A change of these bytes changes the digest of every image: it needs a new version.
	equal(t, "encoding", got, goldenTables)
}

func TestTablesThatAreTooLargeAreNotEncoded(t *testing.T) {
	big := newChanges()
	for i := range 60_000 {
		if err := big.put(fmt.Sprintf("d/%x", i*2654435761), newDir()); err != nil {
			t.Fatal(err)
		}
	}
	if s, ok := emptyTables().apply(big).Encode(); ok {
		t.Errorf("encoded in %d bytes", len(s))
	}
}

func TestDamagedTablesAreRefused(t *testing.T) {
	good, _ := debianTables(t).Encode()
	rawOf := func(b ...byte) string {
		tables, err := decodeRaw(b)
		return fmt.Sprint(tables != nil, errors.Is(err, ErrTables))
	}
	for name, s := range map[string]string{
		"nothing":             "",
		"another version":     "2:" + good[2:],
		"cut off":             good[:len(good)-4],
		"no base64":           good + "!",
		"something follows":   good + "AAAA",
		"far too much of it":  tablesVersion + strings.Repeat("A", maxEncoded),
		"no deflated content": tablesVersion + "AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeTables(s); !errors.Is(err, ErrTables) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, b := range map[string][]byte{
		"names out of order":     {0, 0, 1, 1, 'b', 0, 1, 1, 'a', 0, 0},
		"a name twice":           {0, 0, 1, 1, 'a', 0, 1, 1, 'a', 0, 0},
		"dot dot as a name":      {0, 0, 1, 2, '.', '.', 0, 0},
		"a slash in a name":      {0, 0, 1, 3, 'a', '/', 'b', 0, 0},
		"an empty name":          {0, 0, 1, 0, 0, 0},
		"a file":                 {0, 0, 3, 1, 'a', 0},
		"an overlong length":     {0, 0, 1, 0x81, 0, 'a', 0, 0},
		"no end of a directory":  {0, 0, 1, 1, 'a', 0},
		"an unknown user state":  {3, 0, 0},
		"a user with a bad name": {1, 1, 1, '#', 0, 0, 0},
		"something after it":     {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) { equal(t, "decoded, refused", rawOf(b...), "false true") })
	}
	equal(t, "an empty image is decoded", rawOf(0, 0, 0), "true false")
}

func FuzzDecodeRawTables(f *testing.F) {
	f.Add(debianTables(f).raw())
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{1, 1, 1, 'a', 5, 2, 1, 1, 'd', 2, 1, 'l', 1, 'x', 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		tables, err := decodeRaw(raw)
		if err != nil {
			if !errors.Is(err, ErrTables) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(tables.raw(), raw) {
			t.Fatalf("%q is not the encoding of what it decodes to", raw)
		}
	})
}

func FuzzDecodeTables(f *testing.F) {
	text, _ := debianTables(f).Encode()
	f.Add(text)
	f.Add(tablesVersion)
	f.Fuzz(func(t *testing.T, text string) {
		tables, err := DecodeTables(text)
		if err != nil {
			if !errors.Is(err, ErrTables) {
				t.Fatal(err)
			}
			return
		}
		again, ok := tables.Encode()
		if !ok {
			return // packed better than this package does
		}
		same, err := DecodeTables(again)
		if err != nil || !bytes.Equal(same.raw(), tables.raw()) {
			t.Fatalf("%q does not survive being encoded again: %v", text, err)
		}
	})
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:\n"))
	f.Add([]byte("a:b:4294967295\n:::\n#\n\xff:x:1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tables := &Tables{root: newDir(), users: parseAccounts(b), groups: parseAccounts(b)}
		if _, err := decodeRaw(tables.raw()); err != nil {
			t.Fatalf("what was read cannot be decoded: %v", err)
		}
		_, err := tables.User("not there")
		if err == nil || len(err.Error()) > 13*(maxName+2)+200 {
			t.Fatal(err)
		}
	})
}

func FuzzScan(f *testing.F) {
	f.Add(archive(f, "a/", "a/b=x", "l->a", "h=>l", "a/.wh.c", ".wh..wh..opq", "etc/passwd=root:x:0:0:\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := scan(bytes.NewReader(raw))
		if err != nil {
			return
		}
		tables := debianTables(t).apply(c)
		text, ok := tables.Encode()
		if !ok {
			return
		}
		if _, err := DecodeTables(text); err != nil {
			t.Fatalf("what was scanned cannot be decoded: %v", err)
		}
	})
}

func TestHostileLayersAreBounded(t *testing.T) {
	long := archive(t, strings.Repeat("a", maxName+1)+"/")
	deep := archive(t, strings.Repeat("a/", maxPath))
	target := archive(t, "l->"+strings.Repeat("x", maxPath+1))
	for name, raw := range map[string][]byte{"a long name": long, "a deep path": deep, "a long target": target, "damage": bytes.Repeat([]byte("x"), 1024)} {
		t.Run(name, func(t *testing.T) {
			if _, err := scan(bytes.NewReader(raw)); !errors.Is(err, ErrLayer) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("too many entries", func(t *testing.T) {
		c := newChanges()
		c.nodes = maxNodes
		if err := c.put("a", newDir()); !errors.Is(err, ErrLayer) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a large user file", func(t *testing.T) {
		got := tablesOf(t, archive(t, "etc/passwd="+strings.Repeat("x:x:1:\n", maxAccounts/7+1)))
		if _, err := got.User("x"); !errors.Is(err, ErrUnknownName) {
			t.Errorf("got %v", err)
		}
	})
}

// BenchmarkScan reads a layer of about 300 MB as a registry would serve it, with
// its digests compared. Memory is that of the names.
func BenchmarkScan(b *testing.B) {
	const files, size = 10_000, 30 << 10
	store := newBlobs()
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, size)
	l, err := writeLayer(b.Context(), store, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for i := range files {
			_, _ = random.Read(content[:size/3]) // so that it compresses about as programs do
			h := &tar.Header{Name: fmt.Sprintf("usr/lib/python3/dist-packages/p%d/m%d.py", i/50, i), Mode: 0o644, Size: size}
			writeEntry(b, tw, h, string(content))
		}
		return tw.Close()
	})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(files * size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := scanLayer(b.Context(), store, l.Descriptor, l.DiffID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommandLayer writes such a layer: normalised, compressed and scanned.
func BenchmarkCommandLayer(b *testing.B) {
	content := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content[:len(content)/3])
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	writeEntry(b, w, &tar.Header{Name: "usr/bin/program", Size: int64(len(content))}, string(content))
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	raw := layer.Bytes()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := CommandLayer(b.Context(), newBlobs(), bytes.NewReader(raw)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeTables(b *testing.B) {
	c := newChanges()
	for i := range 20_000 {
		if err := c.put(fmt.Sprintf("usr/share/doc/package-%d/sub%d", i/7, i), newDir()); err != nil {
			b.Fatal(err)
		}
	}
	t := emptyTables().apply(c)
	for b.Loop() {
		s, _ := t.Encode()
		b.ReportMetric(float64(len(s)), "bytes")
	}
}
