package assemble

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// commandLayer is what a run at a given time leaves.
func commandLayer(t testing.TB, now time.Time, host string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	long := strings.Repeat("directory/", 15)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: now},
		{Typeflag: tar.TypeDir, Name: "dev/", Mode: 0o755, ModTime: now},
		{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: now},
		{Typeflag: tar.TypeReg, Name: "etc/.wh.motd", ModTime: now, AccessTime: now, ChangeTime: now, Format: tar.FormatPAX},
		{Typeflag: tar.TypeReg, Name: "etc/resolv.conf", Mode: 0o644, ModTime: now},
		{Typeflag: tar.TypeReg, Name: long + "file", Mode: 0o644, ModTime: now},
		{Typeflag: tar.TypeDir, Name: "proc/", Mode: 0o555, ModTime: now},
		{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o600, ModTime: now, Uname: host},
		{Typeflag: tar.TypeReg, Name: "/usr/bin/ping", Mode: 0o104755, Size: 4, Uid: 12, Gid: 3_000_000, Uname: host, Gname: host, ModTime: now,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00", "SCHILY.xattr.security.selinux": host, "SCHILY.xattr.trusted.overlay.origin": host}},
		{Typeflag: tar.TypeLink, Name: "usr/bin/ping6", Linkname: "./usr/bin/ping", Mode: 0o755, ModTime: now},
		{Typeflag: tar.TypeSymlink, Name: "usr/bin/p", Linkname: "../bin/ping", Mode: 0o777, ModTime: now},
		{Typeflag: tar.TypeReg, Name: "usr/old", ModTime: time.Unix(1_000_000_000, 999), Format: tar.FormatPAX},
		{Typeflag: tar.TypeReg, Name: "usr/ancient", ModTime: time.Unix(-5, 0), Format: tar.FormatPAX},
	} {
		content := ""
		if h.Size > 0 {
			content = "ping"
		}
		writeEntry(t, w, h, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func normalized(t testing.TB, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Normalize(t.Context(), &out, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhenAndWhereCommandsRanLeavesNoTrace(t *testing.T) {
	one := normalized(t, commandLayer(t, time.Unix(1_700_000_000, 123), "host-a"))
	two := normalized(t, commandLayer(t, time.Unix(1_800_000_000, 456), "host-b"))
	equal(t, "digest of the second run", digest.FromBytes(two), digest.FromBytes(one))
	equal(t, "digest", digest.FromBytes(one), "sha256:0a309eb84bfef990a72ec03536e3b0374f9c31b7e528dc5a70eafde4d63365b3")
	equalLines(t, "entries", listing(t, one),
		"5 0755 0:0 dev/",
		"3 0666 0:0 dev/null",
		"0 0000 0:0 etc/.wh.motd",
		"0 0644 0:0 etc/resolv.conf",
		"0 0644 0:0 "+strings.Repeat("directory/", 15)+"file",
		"5 0555 0:0 proc/",
		"6 0600 0:0 run/fifo",
		"0 4755 12:3000000 usr/bin/ping",
		"1 0755 0:0 usr/bin/ping6 -> usr/bin/ping",
		"2 0777 0:0 usr/bin/p -> ../bin/ping",
		"0 0000 0:0 usr/old",
		"0 0000 0:0 usr/ancient",
	)
	equalLines(t, "times and records", times(t, one),
		"1262304000 dev/ []", "1262304000 dev/null []", "1262304000 etc/.wh.motd []", "1262304000 etc/resolv.conf []",
		"1262304000 "+strings.Repeat("directory/", 15)+"file []", "1262304000 proc/ []", "1262304000 run/fifo []",
		"1262304000 usr/bin/ping [SCHILY.xattr.security.capability gid]",
		"1262304000 usr/bin/ping6 []", "1262304000 usr/bin/p []", "1000000000 usr/old []", "0 usr/ancient []",
	)
}

func times(t *testing.T, raw []byte) (out []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(h.ModTime.Unix(), " ", h.Name, " ", slices.Sorted(maps.Keys(h.PAXRecords))))
		if h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
			t.Errorf("%s carries names or times: %+v", h.Name, h)
		}
	}
}

func TestNormalizingTwiceIsNormalizingOnce(t *testing.T) {
	once := normalized(t, commandLayer(t, time.Unix(1_700_000_000, 0), "host"))
	equal(t, "digest of the second time", digest.FromBytes(normalized(t, once)), digest.FromBytes(once))
}

func TestCommandsThatChangedNothingHaveNoLayer(t *testing.T) {
	b := newBlobs()
	l, err := CommandLayer(t.Context(), b, bytes.NewReader(archive(t)))
	if err != nil || l != nil || len(b.content) != 0 {
		t.Error(l, err, len(b.content))
	}
}

func TestCommandLayersChangeTheTables(t *testing.T) {
	b := newBlobs()
	below := imageOf(t, b, archive(t, "opt/old/", testPasswd))
	l, err := CommandLayer(t.Context(), b, bytes.NewReader(archive(t, "etc/passwd=app:x:9:9:\n", "opt/.wh.old", "srv/new/")))
	if err != nil {
		t.Fatal(err)
	}
	i, err := below.Append([]Layer{*l}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := i.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "directories", directories(tables), "etc", "opt", "srv", "srv/new")
	uid, err := tables.User("app")
	equal(t, "a user that the commands made", fmt.Sprint(uid, err), "9 <nil>")
}

func TestUnusableCommandLayersAreRefused(t *testing.T) {
	with := func(h tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		writeEntry(t, w, &h, strings.Repeat("x", int(h.Size)))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	good := archive(t, "a=x", "b=y")
	for name, raw := range map[string][]byte{
		"a path that leads out":      archive(t, "a/../../etc/passwd=x"),
		"a hard link that leads out": archive(t, "a=>../b"),
		"a hard link to the root":    archive(t, "a=>/"),
		"a long path":                archive(t, strings.Repeat("a/", maxPath)),
		"a long link target":         archive(t, "l->"+strings.Repeat("x", maxPath+1)),
		"an unknown kind of entry":   with(tar.Header{Name: "a", Typeflag: tar.TypeCont}),
		"a sparse file": bytes.Replace(with(tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 10,
			PAXRecords: map[string]string{"XNU.sparse.major": "1"}}), []byte("XNU.sparse"), []byte("GNU.sparse"), 1),
		"a negative owner":                 with(tar.Header{Name: "a", Uid: -5, Format: tar.FormatGNU}),
		"an owner beyond 32 bits":          with(tar.Header{Name: "a", Gid: 1 << 33}),
		"an archive without an end":        good[:len(good)-1024],
		"an archive cut in a file":         good[:600],
		"an archive cut in a header":       good[:100],
		"something behind the end":         append(slices.Clone(good), "x"...),
		"nothing at all":                   nil,
		"a damaged header":                 bytes.Repeat([]byte("x"), 2048),
		"a single block of zeros in front": append(make([]byte, 512), good...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := Normalize(t.Context(), io.Discard, bytes.NewReader(raw)); !errors.Is(err, ErrLayer) {
				t.Errorf("got %v", err)
			}
			if _, err := CommandLayer(t.Context(), newBlobs(), bytes.NewReader(raw)); !errors.Is(err, ErrLayer) {
				t.Errorf("as a layer: got %v", err)
			}
		})
	}
}

func TestReadingALayerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("lost the lock")
	cancel(why)
	if _, err := CommandLayer(ctx, newBlobs(), bytes.NewReader(archive(t, "a/"))); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add(commandLayer(f, time.Unix(1_700_000_000, 0), "host"))
	f.Add(archive(f, "a/", "a/b=x", "l->a", "h=>a/b", "a/.wh.c"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var once bytes.Buffer
		if err := Normalize(t.Context(), &once, bytes.NewReader(raw)); err != nil {
			return
		}
		var twice bytes.Buffer
		if err := Normalize(t.Context(), &twice, bytes.NewReader(once.Bytes())); err != nil {
			t.Fatalf("what was normalised is refused: %v", err)
		}
		if !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatal("the second time changed something")
		}
		if _, err := scan(bytes.NewReader(once.Bytes())); err != nil {
			if !errors.Is(err, ErrLayer) {
				t.Fatal(err)
			}
		}
	})
}
