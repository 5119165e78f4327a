package plan

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/cairnbuild/cairn/stages"
)

// LockFile is the name of the lock file, beside cairn.yaml.
const LockFile = "cairn.lock"

// maxLock bounds the lock file, in bytes.
const maxLock = 4 << 20

const lockVersion = 1

// Lock is what time could change and the project has pinned: cairn.lock. The
// zero value pins nothing.
type Lock struct {
	// Bases maps a base reference, as configured, and a platform to the digest of
	// the platform's manifest.
	Bases map[string]map[stages.Platform]string
	// Remotes maps the URL of another repository and a ref to the id of a commit.
	Remotes map[string]map[string]string
	// Salts maps an image's name to a word that is part of its first command
	// stage, so that a new word has its commands run again.
	Salts map[string]string
}

var (
	manifestDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	saltWord       = regexp.MustCompile(`^[0-9a-z-]{1,64}$`)
)

// Encode returns the lock file: one line an entry, sorted, so that two branches
// that pin different bases merge without a conflict.
func (l *Lock) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Pins what time could change. Written by \"cairn lock\"; commit it beside cairn.yaml.\nversion: %d\n", lockVersion)
	if len(l.Bases) > 0 {
		fmt.Fprintln(&b, "bases:")
	}
	for _, ref := range slices.Sorted(maps.Keys(l.Bases)) {
		fmt.Fprintf(&b, "  %s:\n", strconv.Quote(ref))
		for _, p := range slices.Sorted(maps.Keys(l.Bases[ref])) {
			fmt.Fprintf(&b, "    %s: %s\n", p, l.Bases[ref][p])
		}
	}
	if len(l.Remotes) > 0 {
		fmt.Fprintln(&b, "repositories:")
	}
	for _, url := range slices.Sorted(maps.Keys(l.Remotes)) {
		fmt.Fprintf(&b, "  %s:\n", strconv.Quote(url))
		for _, ref := range slices.Sorted(maps.Keys(l.Remotes[url])) {
			fmt.Fprintf(&b, "    %s: %s\n", strconv.Quote(ref), strconv.Quote(l.Remotes[url][ref]))
		}
	}
	if len(l.Salts) > 0 {
		fmt.Fprintln(&b, "salts:")
	}
	for _, image := range slices.Sorted(maps.Keys(l.Salts)) {
		fmt.Fprintf(&b, "  %s: %s\n", strconv.Quote(image), strconv.Quote(l.Salts[image]))
	}
	return b.Bytes()
}

// Base returns the pinned manifest digest of a base, or "".
func (l *Lock) Base(ref string, p stages.Platform) string { return l.Bases[ref][p] }

// Pin sets the manifest digest of a base.
func (l *Lock) Pin(ref string, p stages.Platform, digest string) {
	if l.Bases == nil {
		l.Bases = make(map[string]map[stages.Platform]string)
	}
	if l.Bases[ref] == nil {
		l.Bases[ref] = make(map[stages.Platform]string)
	}
	l.Bases[ref][p] = digest
}

// Commit returns the commit that a remote is pinned to, or "".
func (l *Lock) Commit(r stages.Remote) string {
	if id := r.Commit(); id != "" {
		return id
	}
	return l.Remotes[r.URL][r.Ref]
}

// PinCommit sets the commit of a remote. One that names a commit itself needs no entry.
func (l *Lock) PinCommit(r stages.Remote, commit string) {
	if r.Commit() != "" {
		return
	}
	if l.Remotes == nil {
		l.Remotes = make(map[string]map[string]string)
	}
	if l.Remotes[r.URL] == nil {
		l.Remotes[r.URL] = make(map[string]string)
	}
	l.Remotes[r.URL][r.Ref] = commit
}

// Refresh sets the salt of an image.
func (l *Lock) Refresh(image, salt string) {
	if l.Salts == nil {
		l.Salts = make(map[string]string)
	}
	l.Salts[image] = salt
}

// Base is a base image that a configuration refers to.
type Base struct {
	Reference string
	Platform  stages.Platform
}
