package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/cairnbuild/cairn/stages"
)

const (
	// askTimeout is how long a remote may take to say what a ref names, and
	// fetchTimeout to give a commit.
	askTimeout   = time.Minute
	fetchTimeout = 15 * time.Minute
	// staleAfter is the age at which a directory that somebody began to fetch
	// into and did not finish is removed.
	staleAfter = 24 * time.Hour
	// fetching begins the names of such directories.
	fetching = "fetching-"
)

// Remotes reads commits of other repositories through a cache, which several
// processes may use. A commit is fetched once and not asked for again as long as
// the cache has it: each has a repository of its own in the cache, made aside and
// then put in its place. What was opened is held from eviction until [Remotes.Close].
type Remotes struct {
	// Dir is the cache's directory.
	Dir string
	// AllowFile allows file:// URLs. They name any repository of this machine
	// that the user can read, which a commit should not decide alone.
	AllowFile bool
	// Now is the clock.
	Now func() time.Time

	mu    sync.Mutex
	holds map[string]*flock.Flock // by the directory of a remote
}

// Resolve asks a remote for the commit that its ref names at the moment.
//
// Errors: [ErrRemoteRefused], [ErrRemote], [ErrUnknownRevision].
func (r *Remotes) Resolve(ctx context.Context, remote stages.Remote) (string, error) {
	if err := r.check(remote); err != nil {
		return "", err
	}
	if id := remote.Commit(); id != "" {
		return id, nil
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return "", err
	}
	return r.lookUp(ctx, remote)
}

// lookUp is Resolve for a ref.
func (r *Remotes) lookUp(ctx context.Context, remote stages.Remote) (string, error) {
	ctx, cancel := within(ctx, askTimeout, remote)
	defer cancel()
	out, err := r.git(r.Dir).output(ctx, "ls-remote", "--quiet", "--end-of-options", remote.URL, remote.Ref, remote.Ref+"^{}")
	if err != nil {
		return "", remoteError("ask", remote, err)
	}
	var id string
	for line := range strings.Lines(string(out)) {
		at, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		// Git takes the name for the end of one: only the whole name counts. What
		// an annotated tag leads to comes after the tag itself.
		if (ref == remote.Ref || ref == remote.Ref+"^{}") && stages.IsGitCommit(at) {
			id = at
		}
	}
	if id == "" {
		return "", &Error{
			Op: "ask", Subject: remote.URL, Class: ErrUnknownRevision, Err: fmt.Errorf("it has no %s", remote.Words()),
			Hint: "correct branch, tag or commit of the mapping",
		}
	}
	return id, nil
}

// Commit returns the files of a commit of the remote, which is fetched when the
// cache lacks it.
//
// Errors: those of [Repository.Commit], [ErrRemoteRefused], [ErrRemote].
func (r *Remotes) Commit(ctx context.Context, remote stages.Remote, commit string) (*Tree, error) {
	if err := r.check(remote); err != nil {
		return nil, err
	}
	if !stages.IsGitCommit(commit) {
		return nil, &Error{Op: "fetch", Subject: remote.URL, Class: ErrUnknownRevision, Err: fmt.Errorf("%.80q is no full id of a commit", commit)}
	}
	url := sha256.Sum256([]byte(remote.URL))
	// By URL as well: who may name a commit of one repository may not know another's.
	home := filepath.Join(r.Dir, hex.EncodeToString(url[:12]))
	dir := filepath.Join(home, commit)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	if err := r.hold(ctx, home); err != nil {
		return nil, err
	}
	if isBare(dir) {
		r.markUsed(dir)
	} else if err := r.fetchInto(ctx, home, dir, remote, commit); err != nil {
		return nil, err
	}
	repo := &Repository{git: bareGit(dir), idLen: len(commit) / 2, at: place{remote: true}}
	return repo.Commit(ctx, commit)
}

// fetchInto makes the cache's repository of a commit.
func (r *Remotes) fetchInto(ctx context.Context, home, dir string, remote stages.Remote, commit string) error {
	if err := r.sweep(home); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(home, fetching)
	if err != nil {
		return err
	}
	err = r.fetch(ctx, tmp, remote, commit)
	if err == nil {
		if err = os.Rename(tmp, dir); err != nil && isBare(dir) {
			err = nil // another process was first
		}
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

// sweep removes what processes that died have left.
func (r *Remotes) sweep(home string) error {
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), fetching) || r.Now().Sub(st.ModTime()) < staleAfter {
			continue
		}
		if err := os.RemoveAll(filepath.Join(home, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// fetch gets a commit and its files into a new repository: by its id, or where
// the server does not serve ids, by the ref.
func (r *Remotes) fetch(ctx context.Context, dir string, remote stages.Remote, commit string) error {
	format := "sha1"
	if len(commit) == 2*sha256.Size {
		format = "sha256"
	}
	if _, err := r.git(dir).output(ctx, "init", "--quiet", "--bare", "--template=", "--object-format="+format); err != nil {
		return err
	}
	ctx, cancel := within(ctx, fetchTimeout, remote)
	defer cancel()
	g := r.git(dir)
	g.options = append(g.options, "--git-dir="+dir)
	get := func(args ...string) error {
		_, err := g.output(ctx, append([]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"}, args...)...)
		return err
	}
	byID := get("--depth=1", "--end-of-options", remote.URL, commit)
	if byID != nil {
		if !exited(byID) {
			return remoteError("fetch from", remote, byID)
		}
		if err := r.fetchByRef(ctx, remote, commit, get); err != nil {
			return err
		}
	}
	if out, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", commit+"^{commit}"); err != nil || out != commit {
		if err != nil && !exited(err) {
			return err
		}
		return vanished(remote, commit)
	}
	_, err := g.output(ctx, "update-ref", "refs/heads/pinned", commit)
	return err
}

// fetchByRef gets what the ref leads to, all of it where the commit is not at its
// tip; of a remote that names a commit alone, all branches and tags.
func (r *Remotes) fetchByRef(ctx context.Context, remote stages.Remote, commit string, get func(args ...string) error) error {
	if remote.Commit() != "" {
		if err := get("--end-of-options", remote.URL, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"); err != nil {
			return remoteError("fetch from", remote, err)
		}
		return nil
	}
	tip, err := r.lookUp(ctx, remote)
	if errors.Is(err, ErrUnknownRevision) {
		return vanished(remote, commit)
	}
	if err != nil {
		return err
	}
	args := []string{"--end-of-options", remote.URL, remote.Ref}
	if tip == commit {
		args = append([]string{"--depth=1"}, args...)
	}
	if err := get(args...); err != nil {
		return remoteError("fetch from", remote, err)
	}
	return nil
}

func vanished(remote stages.Remote, commit string) error {
	return &Error{
		Op: "fetch from", Subject: remote.URL, Class: ErrUnknownRevision, Err: fmt.Errorf("the commit %s is not there (any more)", commit),
		Hint: "pin another one: cairn lock --update, or correct the commit of the mapping",
	}
}

// check refuses what the configuration should not have let through.
func (r *Remotes) check(remote stages.Remote) error {
	if err := errors.Join(stages.CheckGitURL(remote.URL), stages.CheckGitRef(remote.Ref)); err != nil {
		return &Error{Op: "read", Subject: "another repository", Class: ErrRemoteRefused, Err: err}
	}
	if strings.HasPrefix(remote.URL, "file:") && !r.AllowFile {
		return &Error{
			Op: "read", Subject: remote.URL, Class: ErrRemoteRefused, Err: errors.New("the commit would choose a repository of this machine"),
			Hint: "allow it with --allow-file-urls where you trust the commit",
		}
	}
	return nil
}

// within bounds a request to a remote.
func within(ctx context.Context, d time.Duration, remote stages.Remote) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer from %s within %v", remote.URL, d))
}

// git returns a git that may speak to remotes: over the transports that are
// allowed, asking nobody for a password.
func (r *Remotes) git(dir string) git {
	protocols := "https:ssh"
	if r.AllowFile {
		protocols += ":file"
	}
	return git{
		dir: dir, detached: true,
		options: []string{"-c", "gc.auto=0", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", "-c", "credential.interactive=never"},
		environ: []string{"GIT_ALLOW_PROTOCOL=" + protocols},
	}
}

// bareGit returns a git that only reads a repository of the cache.
func bareGit(dir string) git { return git{dir: dir, options: []string{"--git-dir=" + dir}} }

// remoteError says that a remote did not do what it was asked for.
func remoteError(op string, remote stages.Remote, err error) error {
	if !exited(err) {
		return err
	}
	return &Error{
		Op: op, Subject: remote.URL, Class: ErrRemote, Err: withoutLogins(err),
		Hint: fmt.Sprintf("check that this works: git ls-remote %s; git's own credential helpers and ssh keys are used", shellWord(remote.URL)),
	}
}

var loginInText = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'"]*@`)

// textError is an error with another text.
type textError struct {
	error
	text string
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.error }

// withoutLogins takes logins out of URLs in the text of an error: git's own
// configuration can rewrite a URL into one that has a token.
func withoutLogins(err error) error {
	return &textError{err, loginInText.ReplaceAllString(err.Error(), "${1}")}
}
