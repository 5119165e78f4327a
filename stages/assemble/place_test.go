package assemble

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages/source"
)

const testPasswd = "etc/passwd=root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:\n"

func TestPlace(t *testing.T) {
	base := []string{
		"usr/", "usr/lib/", "lib->usr/lib", "srv/", "srv/www->/data/www", "data/www/", "tmp/",
		"etc/", testPasswd, "etc/group=www:x:34:\n",
		"a->b", "b->c", "c->d", "d/",
		"loop1->loop2", "loop2->loop1", "self->self",
		"escape->../../../usr/lib", "opt/", "opt/up->../srv", "opt/dot->.", "opt/root->/",
		"dangling->var/new/place", "nowhere->",
	}
	type tc struct {
		base   []string
		sets   []set
		dirs   []string
		placed []string
		err    error
		says   string
	}
	cases := map[string]tc{
		"new directories belong to the owner from the target on and to root above it": {
			sets:   []set{{to: "/app/web/www", owner: "www", group: "www", files: files("index.html", "css/a.css")}},
			dirs:   []string{"app 0:0", "app/web 0:0", "app/web/www 33:34", "app/web/www/css 33:34"},
			placed: []string{"app/web/www/css/a.css 33:34", "app/web/www/index.html 33:34"},
		},
		"a directory that exists is left as it is": {
			sets: []set{{to: "/tmp", owner: "7", files: files("x")}}, placed: []string{"tmp/x 7:0"},
		},
		"a merged usr is gone through and not replaced": {
			sets: []set{{to: "/lib", files: files("x.so", "sub/y.so")}},
			dirs: []string{"usr/lib/sub 0:0"}, placed: []string{"usr/lib/sub/y.so 0:0", "usr/lib/x.so 0:0"},
		},
		"an absolute link is followed inside the image": {
			sets: []set{{to: "/srv/www/app", files: files("x")}}, dirs: []string{"data/www/app 0:0"}, placed: []string{"data/www/app/x 0:0"},
		},
		"a link below the target is followed": {
			sets: []set{{to: "/", files: files("srv/www/x")}}, placed: []string{"data/www/x 0:0"},
		},
		"a chain of links is followed": {
			sets: []set{{to: "/a/e", files: files("x")}}, dirs: []string{"d/e 0:0"}, placed: []string{"d/e/x 0:0"},
		},
		"a link that leads out of the root ends in it": {
			sets: []set{{to: "/escape", files: files("x")}}, placed: []string{"usr/lib/x 0:0"},
		},
		"a relative link starts at its own directory": {
			sets: []set{{to: "/opt/up/www", files: files("x")}}, placed: []string{"data/www/x 0:0"},
		},
		"a link to its own directory and one to the root": {
			sets: []set{{to: "/opt/dot/root/tmp", files: files("x")}}, placed: []string{"tmp/x 0:0"},
		},
		"a dangling link gets the directory that it names": {
			sets:   []set{{to: "/dangling", owner: "5", files: files("x", "y/z")}},
			dirs:   []string{"var 0:0", "var/new 0:0", "var/new/place 5:0", "var/new/place/y 5:0"},
			placed: []string{"var/new/place/x 5:0", "var/new/place/y/z 5:0"},
		},
		"links in a circle are an error": {
			sets: []set{{to: "/loop1", files: files("x")}}, err: ErrLinkLoop, says: `"/loop1/x"`,
		},
		"a link to itself is an error":  {sets: []set{{to: "/self", files: files("x")}}, err: ErrLinkLoop},
		"a link to nothing is an error": {sets: []set{{to: "/nowhere", files: files("x")}}, err: ErrNotDirectory},
		"a file of its own is placed at the target": {
			sets: []set{{to: "/app/run", owner: "www", files: files("")}}, dirs: []string{"app 0:0"}, placed: []string{"app/run 33:0"},
		},
		"a file takes the place of a link": {
			sets: []set{{to: "/srv/www", files: files("")}}, placed: []string{"srv/www 0:0"},
		},
		"a file does not take the place of a directory": {
			sets: []set{{to: "/data", files: files("www")}}, err: ErrIsDirectory, says: `place files at "/data": "/data/www"`,
		},
		"nor of the root": {sets: []set{{to: "/", files: files("")}}, err: ErrIsDirectory},
		"a later set sees the directories of an earlier one": {
			sets: []set{{to: "/app", owner: "1", files: files("d/x")}, {to: "/app/d", owner: "2", files: files("y", "e/z")}},
			dirs: []string{"app 1:0", "app/d 1:0", "app/d/e 2:0"}, placed: []string{"app/d/e/z 2:0", "app/d/x 1:0", "app/d/y 2:0"},
		},
		"of two sets that meet behind a link the later one wins": {
			sets: []set{{to: "/lib", owner: "1", files: files("x")}, {to: "/usr/lib", owner: "2", files: files("x")}}, placed: []string{"usr/lib/x 2:0"},
		},
		"a path through a file of the same stage is an error": {
			sets: []set{{to: "/app", files: files("d")}, {to: "/app/d", files: files("x")}}, err: ErrNotDirectory, says: "this stage puts a file at /app/d",
		},
		"a file at a directory of the same stage is an error": {
			sets: []set{{to: "/app", files: files("d/x")}, {to: "/app/d", files: files("")}}, err: ErrIsDirectory,
		},
		"an unknown owner names the set and the known ones": {
			sets: []set{{to: "/app", owner: "app", files: files("x")}}, err: ErrUnknownName,
			says: `place files at "/app": owner: unknown name "app": /etc/passwd of the image below has root, www`,
		},
		"an unknown group is an error": {sets: []set{{to: "/app", group: "root", files: files("x")}}, err: ErrUnknownName, says: "/etc/group"},
		"a name that would remove a file is an error": {
			sets: []set{{to: "/app", files: files("d/.wh.secret")}}, err: ErrReserved,
		},
		"a path that leaves the target is an error": {sets: []set{{to: "/app", files: files("../x")}}, err: ErrNotDirectory},
		"a set without files makes nothing":         {sets: []set{{to: "/app"}}},
		"a stage without sets makes nothing":        {},
		"in an image from scratch everything is made": {
			base: []string{}, sets: []set{{to: "/lib", owner: "12", group: "13", files: files("x")}},
			dirs: []string{"lib 12:13"}, placed: []string{"lib/x 12:13"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			lines := base
			if c.base != nil {
				lines = c.base
			}
			below := imageOf(t, newBlobs(), archive(t, lines...))
			stage, tree := stageOf(c.sets...)
			dirs, placed, err := Place(t.Context(), tree, stage, below)
			if c.err != nil {
				var placing *PlaceError
				if !errors.Is(err, c.err) || !errors.As(err, &placing) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, want %v with %s", err, c.err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			equalLines(t, "directories", dirLines(dirs), c.dirs...)
			equalLines(t, "files", placedLines(placed), c.placed...)
		})
	}
}

func dirLines(dirs []source.Dir) (out []string) {
	for _, d := range dirs {
		out = append(out, fmt.Sprintf("%s %d:%d", d.Path, d.UID, d.GID))
	}
	return out
}

func placedLines(placed []source.Placed) (out []string) {
	for _, p := range placed {
		out = append(out, fmt.Sprintf("%s %d:%d", p.Path, p.UID, p.GID))
	}
	return out
}

func TestErrorsOfTheTreeComeThrough(t *testing.T) {
	stage, tree := stageOf(set{to: "/app", files: files("x")})
	delete(tree, "set0")
	if _, _, err := Place(t.Context(), tree, stage, Scratch(amd64)); !errors.Is(err, source.ErrNoSuchPath) {
		t.Errorf("got %v", err)
	}
	stage.Selections = nil
	if _, _, err := Place(t.Context(), tree, stage, Scratch(amd64)); err == nil {
		t.Error("a stage with fewer selections than sets was placed")
	}
}

func TestALongChainOfLinksIsBounded(t *testing.T) {
	var lines []string
	for i := range maxFollow + 1 {
		lines = append(lines, fmt.Sprintf("l%d->l%d/x/../", i, i+1))
	}
	below := imageOf(t, newBlobs(), archive(t, append(lines, fmt.Sprintf("l%d/x/", maxFollow+1))...))
	stage, tree := stageOf(set{to: "/l1", files: files("y")})
	_, placed, err := Place(t.Context(), tree, stage, below)
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "files after as many links as are allowed", placedLines(placed), fmt.Sprintf("l%d/y 0:0", maxFollow+1))
	stage, tree = stageOf(set{to: "/l0", files: files("y")})
	if _, _, err := Place(t.Context(), tree, stage, below); !errors.Is(err, ErrLinkLoop) {
		t.Errorf("one more: got %v", err)
	}
}
