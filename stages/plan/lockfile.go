package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// LockError says that the lock file cannot be read.
type LockError struct {
	// Line counts from 1; it is 0 where no line is to blame.
	Line int
	Err  error
}

// Error implements error, on one line.
func (e *LockError) Error() string {
	if e.Line == 0 {
		return LockFile + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s:%d: %v", LockFile, e.Line, e.Err)
}

// Unwrap returns the cause.
func (e *LockError) Unwrap() error { return e.Err }

func lockErrorf(line int, format string, args ...any) error {
	return &LockError{Line: line, Err: fmt.Errorf(format, args...)}
}

// ParseLock reads a lock file. What is wrong with it comes back as a [*LockError].
func ParseLock(b []byte) (*Lock, error) {
	if len(b) > maxLock {
		return nil, lockErrorf(0, "larger than %d bytes", maxLock)
	}
	root, err := lockNode(b)
	if err != nil {
		return nil, err
	}
	l, version := &Lock{}, 0
	err = eachPair(root, func(key, value *yaml.Node) (err error) {
		switch key.Value {
		case "version":
			version, err = readVersion(value)
		case "bases":
			l.Bases, err = readBases(value)
		case "repositories":
			l.Remotes, err = readRemotes(value)
		case "salts":
			l.Salts, err = readSalts(value)
		default:
			err = lockErrorf(key.Line, "unknown key %q: want version, bases, repositories or salts", brief(key.Value))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if version == 0 {
		return nil, lockErrorf(root.Line, "the key \"version\" is missing: this cairn reads version %d", lockVersion)
	}
	return l, nil
}

// lockNode returns the one document of the file.
func lockNode(b []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, lockErrorf(0, "the file is empty")
	case err != nil:
		return nil, lockSyntax(err)
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, lockErrorf(more.Line, "a second document")
	case !errors.Is(err, io.EOF):
		return nil, lockSyntax(err)
	}
	if len(doc.Content) != 1 {
		return nil, lockErrorf(0, "the file is empty")
	}
	return doc.Content[0], nil
}

// lockSyntax tells an error of the YAML library in this file's form. Its text is
// the only place where the library gives the line, for some errors one too low.
func lockSyntax(err error) error {
	message := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	var line int
	if _, scanErr := fmt.Sscanf(message, "line %d:", &line); scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
		return lockErrorf(line, "no YAML, on this line or the next: %s", message)
	}
	return lockErrorf(0, "no YAML: %s", message)
}

// eachPair calls fn for the entries of a mapping, each key of which stands once.
func eachPair(n *yaml.Node, fn func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return lockErrorf(n.Line, "want a mapping")
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if !isWord(key) {
			return lockErrorf(key.Line, "want a string as key")
		}
		if first := lines[key.Value]; first != 0 {
			return lockErrorf(key.Line, "the key %q stands here a second time; the first is on line %d", brief(key.Value), first)
		}
		lines[key.Value] = key.Line
		if err := fn(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// isWord reports whether n is a scalar with something in it: a salt may look
// like a number.
func isWord(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return n.Kind == yaml.ScalarNode
	}
	return false
}

func readVersion(n *yaml.Node) (int, error) {
	if !isWord(n) || n.Value != fmt.Sprint(lockVersion) {
		return 0, lockErrorf(n.Line, "version %q is not known, this cairn reads version %d", brief(n.Value), lockVersion)
	}
	return lockVersion, nil
}

func readBases(n *yaml.Node) (map[string]map[stages.Platform]string, error) {
	bases := make(map[string]map[stages.Platform]string)
	return bases, eachPair(n, func(ref, platforms *yaml.Node) error {
		digests := make(map[stages.Platform]string)
		bases[ref.Value] = digests
		return eachPair(platforms, func(key, digest *yaml.Node) error {
			p := stages.Platform(key.Value)
			if norm, err := stages.ParsePlatform(key.Value); err != nil || norm != p {
				return lockErrorf(key.Line, "%q is no platform in its usual form", brief(key.Value))
			}
			if !isWord(digest) || !manifestDigest.MatchString(digest.Value) {
				return lockErrorf(digest.Line, "%q is no manifest digest: want sha256: and 64 lower-case hexadecimal digits", brief(digest.Value))
			}
			digests[p] = digest.Value
			return nil
		})
	})
}

func readRemotes(n *yaml.Node) (map[string]map[string]string, error) {
	remotes := make(map[string]map[string]string)
	return remotes, eachPair(n, func(url, refs *yaml.Node) error {
		switch err := stages.CheckGitURL(url.Value); {
		case errors.Is(err, stages.ErrGitLogin):
			return lockErrorf(url.Line, "%w", err)
		case err != nil:
			return lockErrorf(url.Line, "%q is no URL of a repository: %w", brief(url.Value), err)
		}
		commits := make(map[string]string)
		remotes[url.Value] = commits
		return eachPair(refs, func(ref, commit *yaml.Node) error {
			if err := stages.CheckGitRef(ref.Value); err != nil {
				return lockErrorf(ref.Line, "%w", err)
			}
			if !isWord(commit) || !stages.IsGitCommit(commit.Value) {
				return lockErrorf(commit.Line, "%q is no id of a commit: want 40 or 64 lower-case hexadecimal digits", brief(commit.Value))
			}
			commits[ref.Value] = commit.Value
			return nil
		})
	})
}

func readSalts(n *yaml.Node) (map[string]string, error) {
	salts := make(map[string]string)
	return salts, eachPair(n, func(image, salt *yaml.Node) error {
		if !isWord(salt) || !saltWord.MatchString(salt.Value) {
			return lockErrorf(salt.Line, "the salt %q is not made of 1 to 64 digits, lower-case letters and dashes", brief(salt.Value))
		}
		salts[image.Value] = salt.Value
		return nil
	})
}

// brief cuts what a message repeats.
func brief(s string) string { return fmt.Sprintf("%.80s", s) }
