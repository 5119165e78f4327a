package source

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

const (
	goldenIdentity = "fb8605a962c65105"
	goldenLayer    = "d06e3aab18b0c626602e306daa4def8955fa35860e376c76efccbd7e4b7ab183"
	goldenGzip     = "3be3b0bcf49ed30ba5847b0238188a40123305dd29712e2727922ce791853b4e"
)

func fixedTime(sec int64) time.Time { return time.Unix(1_000_000_000+sec, 0) }

func oddLayer(t *testing.T) (*Tree, []Dir, []Placed) {
	tree := oddRepo(t).tree()
	files, err := tree.Files(everything())
	must(t, err)
	var placed []Placed
	for _, f := range files {
		placed = append(placed, Placed{Path: "srv/app/" + f.Path, File: f, UID: 1000, GID: 3_000_000})
	}
	placed = append(placed, Placed{Path: "srv/app/" + strings.Repeat("long/", 60) + "end", File: files[0]})
	return tree, []Dir{{Path: "srv/app", UID: 1000, GID: 1000}, {Path: "srv"}, {Path: "srv/app/a"}, {Path: "var"}}, placed
}

func TestLayerIsDeterministic(t *testing.T) {
	tree, dirs, placed := oddLayer(t)
	var b bytes.Buffer
	must(t, tree.WriteLayer(t.Context(), &b, dirs, placed))
	if got := fmt.Sprintf("%x", sha256.Sum256(b.Bytes())); got != goldenLayer {
		t.Errorf("layer %s, want %s: every published layer would be made anew", got, goldenLayer)
	}
	slices.Reverse(dirs)
	slices.Reverse(placed)
	var again bytes.Buffer
	must(t, tree.WriteLayer(t.Context(), &again, dirs, placed))
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the order of the arguments matters")
	}
}

func TestLayerSaysWhatItHolds(t *testing.T) {
	tree, dirs, placed := oddLayer(t)
	var b bytes.Buffer
	must(t, tree.WriteLayer(t.Context(), &b, dirs, placed))
	var names []string
	headers := map[string]*tar.Header{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if h.ModTime.After(time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC)) || h.ModTime.Before(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) || h.Uname != "" {
			t.Errorf("%q: time %v, user %q", h.Name, h.ModTime, h.Uname)
		}
		names = append(names, strings.TrimSuffix(h.Name, "/"))
		headers[h.Name] = h
	}
	if !slices.IsSorted(names) || len(names) != len(dirs)+len(placed) {
		t.Errorf("entries %q", names)
	}
	for name, want := range map[string]int64{"srv/": 0o755, "srv/app/run.sh": 0o755, "srv/app/a.b": 0o644, "srv/app/link": 0o777, "srv/app/bad\xff\xfeutf8": 0o644} {
		if h := headers[name]; h == nil || h.Mode != want {
			t.Errorf("%q: header %v, want mode %o", name, h, want)
		}
	}
	if h := headers["srv/app/link"]; h.Linkname != "../elsewhere" || h.Typeflag != tar.TypeSymlink || h.Gid != 3_000_000 {
		t.Errorf("link: %+v", h)
	}
	if headers["srv/app/a.b"].ModTime.Equal(headers["srv/app/a-b"].ModTime) {
		t.Error("two contents have one time")
	}
}

func TestLayerRefusesConflictsAndEscapes(t *testing.T) {
	tree, _, placed := oddLayer(t)
	f := placed[0].File
	for name, tt := range map[string]struct {
		dirs   []Dir
		placed []Placed
	}{
		"a file twice":               {nil, []Placed{{Path: "a", File: f}, {Path: "a", File: f}}},
		"a file that is a directory": {nil, []Placed{{Path: "a", File: f}, {Path: "a.b", File: f}, {Path: "a/b/c", File: f}}},
		"a directory over a file":    {[]Dir{{Path: "a"}}, []Placed{{Path: "a", File: f}}},
		"a directory below a file":   {[]Dir{{Path: "a/b"}}, []Placed{{Path: "a", File: f}}},
		"a directory twice":          {[]Dir{{Path: "a"}, {Path: "a"}}, nil},
		"an escape":                  {nil, []Placed{{Path: "a/../../b", File: f}}},
		"an absolute path":           {nil, []Placed{{Path: "/a", File: f}}},
		"no path":                    {nil, []Placed{{Path: "", File: f}}},
	} {
		if err := tree.WriteLayer(t.Context(), io.Discard, tt.dirs, tt.placed); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompressionIsDeterministic(t *testing.T) {
	var plain bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&plain, "line %d of %x\n", i, i*i)
	}
	squeeze := func(chunk int) []byte {
		var b bytes.Buffer
		z := Compress(&b)
		for rest := plain.Bytes(); len(rest) > 0; {
			n, err := z.Write(rest[:min(chunk, len(rest))])
			must(t, err)
			rest = rest[n:]
		}
		must(t, z.Close())
		return b.Bytes()
	}
	whole := squeeze(1 << 30)
	if got := fmt.Sprintf("%x", sha256.Sum256(whole)); got != goldenGzip {
		t.Errorf("compressed %s, want %s: the same layers would get other digests", got, goldenGzip)
	}
	if !bytes.Equal(whole, squeeze(777)) {
		t.Error("the size of writes matters")
	}
	z, err := gzip.NewReader(bytes.NewReader(whole))
	must(t, err)
	if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, plain.Bytes()) {
		t.Errorf("it does not come back: %v", err)
	}
}
