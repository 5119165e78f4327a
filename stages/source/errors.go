package source

import (
	"errors"
	"strings"
)

// Classes of errors; ask with [errors.Is].
var (
	// ErrNotRepository: neither the directory nor one above it is a git repository.
	ErrNotRepository = errors.New("not a git repository")
	// ErrUnsafe: the repository is owned by another user, and git refuses to read it.
	ErrUnsafe = errors.New("the git repository is owned by another user")
	// ErrGitMissing: there is no git on PATH.
	ErrGitMissing = errors.New("git is not installed")
	// ErrGitTooOld: git is older than 2.31.
	ErrGitTooOld = errors.New("git is too old")
	// ErrGit: git failed in a way that has no class of its own.
	ErrGit = errors.New("git failed")
	// ErrNoCommits: the repository has no commit yet.
	ErrNoCommits = errors.New("the git repository has no commit")
	// ErrUnknownRevision: there is no such commit here.
	ErrUnknownRevision = errors.New("no such commit")
	// ErrNotCommitted: the commit does not hold the project's directory.
	ErrNotCommitted = errors.New("the project's directory is not in the commit")
	// ErrNoWorkTree: the repository is bare.
	ErrNoWorkTree = errors.New("the git repository has no work tree")
	// ErrNoSuchPath: a mapping adds a path that is not in the tree.
	ErrNoSuchPath = errors.New("no such path in the git tree")
	// ErrPattern: a glob is malformed.
	ErrPattern = errors.New("malformed glob")
	// ErrSubmodule: a selection holds a submodule whose files are not here.
	ErrSubmodule = errors.New("the submodule's files are not available")
	// ErrLFSPointer: a file of Git LFS is no valid pointer.
	ErrLFSPointer = errors.New("malformed Git LFS pointer")
	// ErrLFSMissing: the local store of Git LFS lacks a content.
	ErrLFSMissing = errors.New("the content is not in the local Git LFS store")
	// ErrRemoteRefused: another repository is not one that may be read.
	ErrRemoteRefused = errors.New("refused")
	// ErrRemote: another repository cannot be reached, or does not give what it is asked for.
	ErrRemote = errors.New("the other repository does not answer")
	// ErrNotRegular: the path is no regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge: a file or a tree is larger than the limits of this package.
	ErrTooLarge = errors.New("too large")
	// ErrCorrupt: an object is missing, is not what its id says, or holds what git never writes.
	ErrCorrupt = errors.New("corrupt git object")
	// ErrChanged: a file of the work tree changed between being listed and being read.
	ErrChanged = errors.New("the file changed while it was read")
	// ErrConflict: a path of a layer is both a file and a directory, or stands in it twice.
	ErrConflict = errors.New("conflicting paths in a layer")
)

// Error is an error of this package. It wraps one of the classes above and,
// where there is one, the cause below it.
type Error struct {
	// Op is what was tried, for instance "read commit".
	Op string
	// Subject is the path, revision or pattern it was tried on.
	Subject string
	// Class is one of the sentinel errors of this package.
	Class error
	// Hint tells a person what to do, "" where there is nothing to add.
	Hint string
	// Err is the cause, nil where the class says everything.
	Err error
}

// Error implements error. The hint is not part of it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteString(" " + e.Subject)
	}
	b.WriteString(": " + e.Class.Error())
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}
