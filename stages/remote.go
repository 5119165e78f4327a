package stages

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Remote names files of another git repository. It is where they come from, never
// what they are: no recipe holds it.
type Remote struct {
	// URL is one that [CheckGitURL] allows.
	URL string
	// Ref is "HEAD", a full name such as "refs/heads/main", or the id of a commit.
	Ref string
}

// RemoteHead is the Ref of the branch that a repository takes for its main one.
const RemoteHead = "HEAD"

// RemoteCommit is what a remote stands for in a plan.
type RemoteCommit struct {
	Remote Remote
	Commit string
	// Pinned is false where the ref was resolved in this run.
	Pinned bool
}

// Errors of [CheckGitURL].
var (
	// ErrGitURL: it is no URL of a form that is read.
	ErrGitURL = errors.New("want https://HOST/PATH, ssh://[USER@]HOST/PATH, USER@HOST:PATH or file:///PATH")
	// ErrGitLogin: the URL holds a login.
	ErrGitLogin = errors.New("the URL holds a login")
)

const (
	gitHost = `(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])`
	gitUser = `[A-Za-z0-9_][A-Za-z0-9._-]*`
	gitPath = `[A-Za-z0-9._~%+,=:@/-]*`
)

var (
	gitURL = regexp.MustCompile(`^(?:https://` + gitHost + `(?::[0-9]{1,5})?/(` + gitPath + `)` +
		`|ssh://(?:` + gitUser + `@)?` + gitHost + `(?::[0-9]{1,5})?/(` + gitPath + `)` +
		`|` + gitUser + `@` + gitHost + `:(` + gitPath + `)` +
		`|file:///(` + gitPath + `))$`)
	gitLogin  = regexp.MustCompile(`^(?i:[a-z][a-z0-9+.-]*)://[^/]*@`)
	gitSSH    = regexp.MustCompile(`^ssh://` + gitUser + `@[^@/]+(?:/|$)`)
	gitRef    = regexp.MustCompile(`^refs/(?:heads|tags)/[A-Za-z0-9_][A-Za-z0-9._/+@=,-]*$`)
	gitCommit = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
)

// CheckGitURL refuses URLs that do not name a repository plainly: other
// transports, which can run programs; logins, which do not belong into a
// committed file; whatever git or ssh could take for an option.
func CheckGitURL(url string) error {
	if gitLogin.MatchString(url) && !gitSSH.MatchString(url) {
		return ErrGitLogin
	}
	m := gitURL.FindStringSubmatch(url)
	if m == nil || strings.HasSuffix(url, "\n") {
		return ErrGitURL
	}
	repo := strings.Join(m[1:], "")
	if strings.Trim(repo, "/") == "" || strings.HasPrefix(strings.TrimLeft(repo, "/"), "-") {
		return ErrGitURL
	}
	for part := range strings.SplitSeq(repo, "/") {
		if part == ".." {
			return ErrGitURL
		}
	}
	return nil
}

// CheckGitRef refuses what is no name of a branch or tag, the word HEAD or the
// full id of a commit.
func CheckGitRef(ref string) error {
	switch {
	case ref == RemoteHead || IsGitCommit(ref):
		return nil
	case !gitRef.MatchString(ref), strings.Contains(ref, ".."), strings.Contains(ref, "@{"), path.Clean(ref) != ref, strings.HasSuffix(ref, "."):
		return fmt.Errorf("%.80q is no name of a branch or tag", ref)
	}
	for part := range strings.SplitSeq(ref, "/") {
		if strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return fmt.Errorf("%.80q is no name of a branch or tag", ref)
		}
	}
	return nil
}

// IsGitCommit reports whether s has the form of a commit's full id.
func IsGitCommit(s string) bool { return gitCommit.MatchString(s) && !strings.HasSuffix(s, "\n") }

// Commit returns the id where the remote names a commit itself, or "".
func (r Remote) Commit() string {
	if IsGitCommit(r.Ref) {
		return r.Ref
	}
	return ""
}

// Words names the ref for a person: "branch main", "tag v1".
func (r Remote) Words() string {
	if branch, ok := strings.CutPrefix(r.Ref, "refs/heads/"); ok {
		return "branch " + branch
	}
	if tag, ok := strings.CutPrefix(r.Ref, "refs/tags/"); ok {
		return "tag " + tag
	}
	return r.Ref
}

// IsZero reports whether r names no other repository.
func (r Remote) IsZero() bool { return r == Remote{} }
