package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reference is a branch or a tag of a repository. Its name is whatever somebody
// has chosen: it is data.
type Reference struct {
	// Tag is set for a tag.
	Tag bool
	// Name is without its folders: "main", "feature/x".
	Name string
	// Commit is the id of the commit that it leads to.
	Commit string
	// At is the commit's time, or that of an annotated tag itself; zero where it has none.
	At time.Time
}

// Past is a commit of a history.
type Past struct {
	ID string
	// At is the committer's time.
	At time.Time
}

// References of the remote are kept in folders of their own, so that the user's
// branches and tags stay as they are.
const (
	fetchedHeads = "refs/cairn/heads/"
	fetchedTags  = "refs/cairn/tags/"
)

// Remote returns the name of the remote whose branches count: origin, else the only
// one; "" where the repository has none.
func (r *Repository) Remote(ctx context.Context) (string, error) {
	out, err := r.git.output(ctx, "remote")
	if err != nil {
		return "", err
	}
	names := strings.Fields(string(out))
	switch {
	case slices.Contains(names, "origin"):
		return "origin", nil
	case len(names) == 1:
		return names[0], nil
	case len(names) == 0:
		return "", nil
	}
	return "", &Error{
		Op: "choose", Subject: "a remote", Class: ErrGit, Err: fmt.Errorf("there are %d and none is called origin", len(names)),
		Hint: "name the one whose branches count: git remote rename NAME origin",
	}
}

// FetchReferences brings the branches and tags of a remote here, with their whole
// histories, and forgets those that it no longer has. Files of commits that a shallow
// clone lacks are not fetched with them but when they are needed, where the server
// can do that. It changes neither branches nor tags of the repository.
//
// Errors: [ErrRemote].
func (r *Repository) FetchReferences(ctx context.Context, remote string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, fmt.Errorf("no answer from the remote %s within %v", remote, fetchTimeout))
	defer cancel()
	g := r.git
	g.detached = true
	g.options = append(slices.Clone(g.options), "-c", "gc.auto=0", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", "-c", "credential.interactive=never")
	args := []string{"fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"}
	shallow, err := r.Shallow(ctx)
	if err != nil {
		return err
	}
	if shallow {
		args = append(args, "--unshallow", "--filter=blob:none")
	}
	args = append(args, "--end-of-options", remote, "+refs/heads/*:"+fetchedHeads+"*", "+refs/tags/*:"+fetchedTags+"*")
	if _, err := g.output(ctx, args...); err != nil {
		if !exited(err) {
			return err
		}
		return &Error{
			Op: "fetch from", Subject: "the remote " + remote, Class: ErrRemote, Err: withoutLogins(err),
			Hint: fmt.Sprintf("check that this works: git fetch %s", shellWord(remote)),
		}
	}
	return nil
}

// Shallow reports whether commits are missing at the end of histories.
func (r *Repository) Shallow(ctx context.Context) (bool, error) {
	out, err := r.git.line(ctx, "rev-parse", "--is-shallow-repository")
	return out == "true", err
}

// Fetched returns the references that [Repository.FetchReferences] brought.
func (r *Repository) Fetched(ctx context.Context) ([]Reference, error) {
	return r.references(ctx, fetchedHeads, fetchedTags)
}

// Tracked returns the references of a remote as the repository last saw them; with
// "", its own.
func (r *Repository) Tracked(ctx context.Context, remote string) ([]Reference, error) {
	if remote == "" {
		return r.references(ctx, "refs/heads/", "refs/tags/")
	}
	return r.references(ctx, "refs/remotes/"+remote+"/", "refs/tags/")
}

// refFormat has the fields of a line of [Repository.references]. No name of a
// reference has a NUL or a line break in it.
const refFormat = "%(refname)%00%(symref)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)%00%(creatordate:unix)"

func (r *Repository) references(ctx context.Context, heads, tags string) ([]Reference, error) {
	out, err := r.git.output(ctx, "for-each-ref", "--format="+refFormat, heads, tags)
	if err != nil {
		return nil, err
	}
	var all []Reference
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\x00")
		if len(f) != 7 || f[1] != "" { // a symbolic one names another again
			continue
		}
		ref := Reference{Commit: f[3], At: unix(f[6])}
		if f[2] == "tag" {
			ref.Commit = f[5]
		}
		if f[2] == "tag" && f[4] == "tag" {
			if ref.Commit, err = r.resolve(ctx, f[0]+"^{commit}"); err != nil {
				return nil, err
			}
		} else if f[2] != "commit" && f[4] != "commit" {
			continue // a tag of a tree or of a file builds nothing
		}
		name, isHead := strings.CutPrefix(f[0], heads)
		if !isHead {
			name, ref.Tag = strings.CutPrefix(f[0], tags)
		}
		if ref.Name = name; ref.Commit != "" && name != "" {
			all = append(all, ref)
		}
	}
	return all, nil
}

// unix reads seconds; what are none is the zero time.
func unix(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// ErrHistory says that a history cannot be read to its end.
var ErrHistory = errors.New("the history cannot be read")

// History returns a commit and those before it, most of them, in no particular
// order. Where the clone is shallow, that is only what it has.
func (r *Repository) History(ctx context.Context, commit string, most int) ([]Past, error) {
	out, err := r.git.output(ctx, "rev-list", "--max-count="+strconv.Itoa(most), "--format=%H%x00%ct", "--end-of-options", commit)
	if exited(err) {
		return nil, &Error{Op: "read history of", Subject: commit, Class: ErrHistory, Err: err, Hint: "run git fsck; a fresh clone mends it"}
	}
	if err != nil {
		return nil, err
	}
	var all []Past
	for line := range strings.Lines(string(out)) {
		id, seconds, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\x00")
		if ok { // the others announce a commit
			all = append(all, Past{id, unix(seconds)})
		}
	}
	return all, nil
}
