package plan_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/plan"
)

func TestLockFileReadsAsItWasWritten(t *testing.T) {
	var l plan.Lock
	l.Pin("debian:12", "linux/arm64", "sha256:"+strings.Repeat("1", 64))
	l.Pin("debian:12", "linux/amd64", "sha256:"+strings.Repeat("2", 64))
	l.Pin("a/b@sha256:x", "linux/amd64", "sha256:"+strings.Repeat("3", 64))
	l.PinCommit(stages.Remote{URL: "git@example.com:lib", Ref: "refs/tags/v1"}, strings.Repeat("5", 64))
	l.PinCommit(stages.Remote{URL: "git@example.com:lib", Ref: "HEAD"}, strings.Repeat("4", 40))
	l.PinCommit(stages.Remote{URL: "git@example.com:lib", Ref: strings.Repeat("6", 40)}, strings.Repeat("6", 40))
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
repositories:
  "git@example.com:lib":
    "HEAD": "4444444444444444444444444444444444444444"
    "refs/tags/v1": "5555555555555555555555555555555555555555555555555555555555555555"
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
		"empty":                     {"", "cairn.lock: the file is empty"},
		"only a comment":            {"# nothing\n", "cairn.lock: the file is empty"},
		"no mapping":                {"[]\n", "cairn.lock:1: want a mapping"},
		"no version":                {"# head\nbases: {}\n", `cairn.lock:2: the key "version" is missing: this cairn reads version 1`},
		"another version":           {"version: 2\n", `cairn.lock:1: version "2" is not known, this cairn reads version 1`},
		"a version that is none":    {"version: {}\n", `cairn.lock:1: version "" is not known, this cairn reads version 1`},
		"unknown key":               {"version: 1\nbogus: {}\n", `cairn.lock:2: unknown key "bogus": want version, bases, repositories or salts`},
		"a key twice":               {"version: 1\nsalts: {}\nsalts: {}\n", `cairn.lock:3: the key "salts" stands here a second time; the first is on line 2`},
		"a base twice":              {"version: 1\nbases:\n  a: {}\n  \"a\": {}\n", `cairn.lock:4: the key "a" stands here a second time; the first is on line 3`},
		"a salt twice":              {"version: 1\nsalts: {a: x,\n a: y}\n", `cairn.lock:3: the key "a" stands here a second time; the first is on line 2`},
		"a key that is a list":      {"version: 1\n[a]: b\n", "cairn.lock:2: want a string as key"},
		"a merge":                   {"version: 1\nbases:\n  a: &a {}\n  <<: *a\n", "cairn.lock:4: want a string as key"},
		"an alias":                  {"version: 1\nbases:\n  a: &a {}\n  b: *a\n", "cairn.lock:4: want a mapping"},
		"bases that are a list":     {"version: 1\nbases: []\n", "cairn.lock:2: want a mapping"},
		"a base without a value":    {"version: 1\nbases:\n  a:\n", "cairn.lock:3: want a mapping"},
		"a tag":                     {"version: 1\nbases: {a: {linux/amd64: latest}}\n", `cairn.lock:2: "latest" is no manifest digest: want sha256: and 64 lower-case hexadecimal digits`},
		"a short digest":            {"version: 1\nbases: {a: {linux/amd64: \"sha256:ab\"}}\n", `cairn.lock:2: "sha256:ab" is no manifest digest: want sha256: and 64 lower-case hexadecimal digits`},
		"a platform":                {"version: 1\nbases:\n  a:\n    amd64: \"" + digest + "\"\n", `cairn.lock:4: "amd64" is no platform in its usual form`},
		"an unusual platform":       {"version: 1\nbases: {a: {linux/arm64/v8: \"" + digest + "\"}}\n", `cairn.lock:2: "linux/arm64/v8" is no platform in its usual form`},
		"a strange salt":            {"version: 1\nsalts: {a: \"$(id)\"}\n", `cairn.lock:2: the salt "$(id)" is not made of 1 to 64 digits, lower-case letters and dashes`},
		"a salt that is a list":     {"version: 1\nsalts: {a: []}\n", `cairn.lock:2: the salt "" is not made of 1 to 64 digits, lower-case letters and dashes`},
		"a URL that runs a program": {"version: 1\nrepositories: {\"ext::id\": {}}\n", `cairn.lock:2: "ext::id" is no URL of a repository: want https://HOST/PATH, ssh://[USER@]HOST/PATH, USER@HOST:PATH or file:///PATH`},
		"a URL with a login":        {"version: 1\nrepositories: {\"https://a:sekret@b/c\": {}}\n", "cairn.lock:2: the URL holds a login"},
		"a ref that is an option":   {"version: 1\nrepositories: {\"git@b:c\": {--x: a}}\n", `cairn.lock:2: "--x" is no name of a branch or tag`},
		"a commit that is a path":   {"version: 1\nrepositories: {\"git@b:c\": {HEAD: ../x}}\n", `cairn.lock:2: "../x" is no id of a commit: want 40 or 64 lower-case hexadecimal digits`},
		"a second document":         {"version: 1\n---\nversion: 1\n", "cairn.lock:2: a second document"},
		"no YAML":                   {"\x00", "cairn.lock: no YAML: control characters are not allowed"},
		"an open list":              {"version: 1\nbases: [a\nsalts: {}\n", "cairn.lock:1: no YAML, on this line or the next: did not find expected ',' or ']'"},
		"conflict marks":            {"version: 1\n<<<<<<< HEAD\nbases:\n", "cairn.lock:2: no YAML, on this line or the next: could not find expected ':'"},
		"too large":                 {strings.Repeat("#", 5<<20), "cairn.lock: larger than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := plan.ParseLock([]byte(tc.in))
			var locked *plan.LockError
			if !errors.As(err, &locked) || err.Error() != tc.want {
				t.Errorf("got %+v and\n%v, want\n%s", l, err, tc.want)
			}
		})
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte("version: 1\nbases:\n  a:\n    linux/amd64: sha256:" + strings.Repeat("a", 64) + "\nsalts: {b: c}\n"))
	f.Add([]byte("version: 1\nbogus: 2\n"))
	f.Add([]byte("version: 1\nrepositories: {\"git@b:c\": {HEAD: \"" + strings.Repeat("a", 40) + "\"}}\n"))
	f.Add([]byte("version: 1\nbases: &a {b: *a}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := plan.ParseLock(b)
		if err != nil {
			var locked *plan.LockError
			if !errors.As(err, &locked) || !strings.HasPrefix(err.Error(), plan.LockFile+":") || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%q gives %q", b, err)
			}
			return
		}
		again, err := plan.ParseLock(l.Encode())
		if err != nil || string(again.Encode()) != string(l.Encode()) {
			t.Errorf("%q was written as %q, which gives %v", b, l.Encode(), err)
		}
	})
}
