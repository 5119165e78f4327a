package arch

import (
	"fmt"
	"strings"
)

// Room is a folder with what its packages may import of this module. Packages
// may always import what is below their own room.
type Room struct {
	// Path is the folder; all below it belongs to it unless it has a room of its own.
	Path string
	// May are folders of this module; one that ends in "/..." means all below it as well.
	May []string
	// Alone keeps what is below the folder, where it has no room of its own, out of this room.
	Alone bool
	// Libraries, where not nil, are the only modules beside the standard library
	// that the room may import, as import path prefixes.
	Libraries []string
}

// Rooms returns the table. Data flows one way: config and git, plan, look up,
// build, publish, report; what is not listed for a folder it does not know about.
func Rooms() []Room {
	return []Room{
		{Path: "stages", Alone: true, Libraries: []string{"github.com/opencontainers/go-digest"}},
		{Path: "stages/config", May: []string{"stages"}},
		{Path: "stages/source", May: []string{"stages"}},
		{Path: "stages/plan", May: []string{"stages", "stages/config", "stages/dockerfile", "stages/source"}},
		{Path: "stages/dockerfile", May: []string{"stages", "stages/source"}},
		{Path: "stages/assemble", May: []string{"stages", "stages/source", "storage"}},
		{Path: "stages/engine", May: []string{"stages"}},
		{Path: "stages/build", May: []string{"stages/...", "storage", "synchronization"}},
		{Path: "storage", May: []string{"stages"}, Alone: true},
		{Path: "storage/...", May: []string{"stages", "storage"}},
		{Path: "storage/verify", May: []string{"stages", "storage", "storage/inventory"}},
		{Path: "storage/transfer", May: []string{"stages", "storage", "storage/inventory"}},
		{Path: "lock", Libraries: []string{}},
		{Path: "synchronization", May: []string{"lock", "stages"}, Alone: true},
		{Path: "synchronization/...", May: []string{"lock/...", "stages", "synchronization"}},
		{Path: "synchronization/switchover", May: []string{"stages", "storage", "storage/transfer", "synchronization"}},
		{Path: "cleanup", May: []string{"stages", "stages/config", "storage", "storage/inventory", "synchronization"}},
		{Path: "deploy", May: []string{"stages", "storage"}},
		{Path: "cmd/cairn", May: []string{"cmd/internal/..."}},
		{Path: "cmd/cairnd", May: []string{"cmd/internal/..."}},
		{Path: "cmd/internal", May: []string{"..."}},
		{Path: "hack", May: []string{"..."}},
	}
}

// roomOf returns the room with the longest path that path belongs to.
func roomOf(rooms []Room, path string) (Room, bool) {
	var best Room
	found := false
	for _, r := range rooms {
		top, below := strings.CutSuffix(r.Path, "/...")
		belongs := within(path, top) && (!below || path != top) && (!r.Alone || path == top)
		if belongs && (!found || len(r.Path) > len(best.Path)) {
			best, found = r, true
		}
	}
	return best, found
}

// allows reports whether packages of r may import path.
func (r Room) allows(path string) bool {
	if !within(path, Module) {
		return r.allowsLibrary(path)
	}
	inside := strings.TrimPrefix(strings.TrimPrefix(path, Module), "/")
	top, _ := strings.CutSuffix(r.Path, "/...")
	if r.ownTree(top) && within(inside, top) {
		return true
	}
	for _, may := range r.May {
		if may == "..." || inside == may {
			return true
		}
		if below, ok := strings.CutSuffix(may, "/..."); ok && within(inside, below) {
			return true
		}
	}
	return false
}

// ownTree reports whether all below top belongs together. Siblings such as the
// storages do not: each implementation stands by itself.
func (r Room) ownTree(top string) bool { return !r.Alone && r.Path == top }

func (r Room) allowsLibrary(path string) bool {
	if r.Libraries == nil {
		return true
	}
	first, _, _ := strings.Cut(path, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	for _, l := range r.Libraries {
		if within(path, l) {
			return true
		}
	}
	return false
}

// words says what r may import.
func (r Room) words() string {
	if len(r.May) == 0 {
		return "nothing of this module"
	}
	return strings.Join(r.May, ", ")
}

// Depguard returns the linter's rules for the table, so that an editor shows a
// wrong import at once. A test keeps .golangci.yml equal to it.
func Depguard(rooms []Room) string {
	var b strings.Builder
	for _, r := range rooms {
		if len(r.May) == 1 && r.May[0] == "..." {
			continue
		}
		r.depguard(&b, rooms)
	}
	return b.String()
}

func (r Room) depguard(b *strings.Builder, rooms []Room) {
	top, below := strings.CutSuffix(r.Path, "/...")
	name := strings.NewReplacer("/...", "-below", "/", "-").Replace(r.Path)
	glob := top + "/**/*.go"
	switch {
	case r.Alone:
		glob = top + "/*.go"
	case below:
		glob = top + "/*/**/*.go"
	}
	fmt.Fprintf(b, "        %s:\n          files: [\"!$test\", \"**/%s\"]\n", name, glob)
	if r.Libraries != nil {
		b.WriteString("          list-mode: strict\n")
	} else {
		b.WriteString("          list-mode: lax\n")
	}
	b.WriteString("          allow:\n")
	for _, allowed := range r.depguardAllow(top) {
		fmt.Fprintf(b, "            - %s\n", allowed)
	}
	fmt.Fprintf(b, "          deny: [{pkg: %s, desc: %q}]\n", Module, fmt.Sprintf("%s may import only %s", r.Path, r.words()))
}

// depguardAllow returns prefixes; a "$" at the end means exactly that package.
func (r Room) depguardAllow(top string) []string {
	var out []string
	if r.Libraries != nil {
		out = append(append(out, "$gostd"), r.Libraries...)
	}
	if r.ownTree(top) {
		out = append(out, Module+"/"+top)
	}
	for _, may := range r.May {
		if prefix, ok := strings.CutSuffix(may, "/..."); ok {
			out = append(out, Module+"/"+prefix)
		} else {
			out = append(out, Module+"/"+may+"$")
		}
	}
	return out
}
