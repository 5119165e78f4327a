package plan_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages/plan"
)

func TestLockFileReadsAsItWasWritten(t *testing.T) {
	var l plan.Lock
	l.Pin("debian:12", "linux/arm64", "sha256:"+strings.Repeat("1", 64))
	l.Pin("debian:12", "linux/amd64", "sha256:"+strings.Repeat("2", 64))
	l.Pin("a/b@sha256:x", "linux/amd64", "sha256:"+strings.Repeat("3", 64))
	l.Refresh("", "0a")
	l.Refresh("back\"end", "0b")
	want := `# Pins what time could change. Written by "cairn lock"; commit it beside cairn.yaml.
version: 1
bases:
  "a/b@sha256:x":
    linux/amd64: sha256:3333333333333333333333333333333333333333333333333333333333333333
  "debian:12":
    linux/amd64: sha256:2222222222222222222222222222222222222222222222222222222222222222
    linux/arm64: sha256:1111111111111111111111111111111111111111111111111111111111111111
salts:
  "": "0a"
  "back\"end": "0b"
`
	if got := string(l.Encode()); got != want {
		t.Errorf("got\n%s", got)
	}
	back, err := plan.ParseLock([]byte(want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*back, l) {
		t.Errorf("read %+v", back)
	}
}

func TestLockFileRefusesWhatItDoesNotKnow(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for name, tc := range map[string]struct{ in, want string }{
		"empty":               {"", "version 0 is not known"},
		"another version":     {"version: 2\n", "version 2 is not known, this cairn reads version 1"},
		"unknown key":         {"version: 1\nbase: {}\n", "field base not found"},
		"a tag":               {"version: 1\nbases: {a: {linux/amd64: latest}}\n", `"latest" is no manifest digest`},
		"a short digest":      {"version: 1\nbases: {a: {linux/amd64: \"sha256:ab\"}}\n", "is no manifest digest"},
		"a platform":          {"version: 1\nbases: {a: {amd64: \"" + digest + "\"}}\n", `"amd64" is no platform`},
		"an unusual platform": {"version: 1\nbases: {a: {linux/arm64/v8: \"" + digest + "\"}}\n", `"linux/arm64/v8" is no platform in its usual form`},
		"a strange salt":      {"version: 1\nsalts: {a: \"$(id)\"}\n", "salt of image"},
		"no YAML":             {"\x00", "cairn.lock"},
		"too large":           {strings.Repeat("#", 5<<20), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := plan.ParseLock([]byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), plan.LockFile) {
				t.Errorf("got %+v and %v, want an error with %q", l, err, tc.want)
			}
		})
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte("version: 1\nbases:\n  a:\n    linux/amd64: sha256:" + strings.Repeat("a", 64) + "\nsalts: {b: c}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := plan.ParseLock(b)
		if err != nil {
			return
		}
		again, err := plan.ParseLock(l.Encode())
		if err != nil || string(again.Encode()) != string(l.Encode()) {
			t.Errorf("%q was written as %q, which gives %v", b, l.Encode(), err)
		}
	})
}
