package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

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
	// Salts maps an image's name to a word that is part of its first command
	// stage, so that a new word has its commands run again.
	Salts map[string]string
}

type lockDocument struct {
	Version int                                   `yaml:"version"`
	Bases   map[string]map[stages.Platform]string `yaml:"bases"`
	Salts   map[string]string                     `yaml:"salts"`
}

var (
	manifestDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	saltWord       = regexp.MustCompile(`^[0-9a-z-]{1,64}$`)
)

// LockError says that the lock file cannot be read.
type LockError struct{ Err error }

// Error implements error.
func (e *LockError) Error() string { return LockFile + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *LockError) Unwrap() error { return e.Err }

func lockErrorf(format string, args ...any) error { return &LockError{fmt.Errorf(format, args...)} }

// ParseLock reads a lock file. What is wrong with it comes back as a [*LockError].
func ParseLock(b []byte) (*Lock, error) {
	if len(b) > maxLock {
		return nil, lockErrorf("larger than %d bytes", maxLock)
	}
	var doc lockDocument
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, &LockError{err}
	}
	if doc.Version != lockVersion {
		return nil, lockErrorf("version %d is not known, this cairn reads version %d", doc.Version, lockVersion)
	}
	for ref, platforms := range doc.Bases {
		for p, digest := range platforms {
			if norm, err := stages.ParsePlatform(string(p)); err != nil || norm != p {
				return nil, lockErrorf("base %q: %q is no platform in its usual form", ref, p)
			}
			if !manifestDigest.MatchString(digest) {
				return nil, lockErrorf("base %q for %s: %q is no manifest digest: want sha256: and 64 lower-case hexadecimal digits", ref, p, digest)
			}
		}
	}
	for image, salt := range doc.Salts {
		if !saltWord.MatchString(salt) {
			return nil, lockErrorf("salt of image %q: %q is not made of 1 to 64 digits, lower-case letters and dashes", image, salt)
		}
	}
	return &Lock{Bases: doc.Bases, Salts: doc.Salts}, nil
}

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
