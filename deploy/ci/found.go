package ci

import (
	"path"
	"strings"
)

// found is what a system says about a run.
type found struct {
	Run
	trust
	registry registry
	// temp is the variable of a directory that is gone with the job.
	temp string
}

// trust is what is known about who could have written what the run builds.
type trust struct {
	// pull is a run for a pull request, and fork one of another repository, or of
	// one that is not known.
	pull, fork bool
	// protected is whether the system says that the branch or tag is, where told.
	protected, told bool
	// readOnly says that the job's own token cannot write.
	readOnly bool
}

// registry is the one that a system brings along.
type registry struct {
	// image is the repository below which the project's are, "" where there is none.
	image string
	// user and password are variables, or "".
	user, password string
	// foreign says that the run is one of the fork's own project, and upstream is
	// then the repository of the project that it was forked from, where it can be read.
	foreign  bool
	upstream string
}

// find reads what a system says.
func (r *reader) find(s System) found {
	switch s {
	case GitLab:
		return r.gitlab()
	case GitHub, Gitea, Forgejo:
		return r.actions(s)
	case Jenkins:
		return r.jenkins()
	case Bitbucket:
		return r.bitbucket()
	case Azure:
		return r.azure()
	case TeamCity:
		return r.teamcity()
	default:
		return r.generic()
	}
}

// scope decides how much the run is trusted. Patterns, where given, go before what
// the system says; the system before the custom that main and master are protected.
func (f found) scope(patterns []string) Scope {
	switch {
	case f.pull && f.fork:
		return Fork
	case len(patterns) > 0:
		return protectedIf(f.matches(patterns))
	case f.pull:
		return Unprotected
	case f.told:
		return protectedIf(f.protected)
	default:
		return protectedIf(f.Tag == "" && (f.Branch == "main" || f.Branch == "master"))
	}
}

func protectedIf(yes bool) Scope {
	if yes {
		return Protected
	}
	return Unprotected
}

// matches reports whether one of the patterns is that of the run's branch or tag.
// A star stands for any characters, slashes too.
func (f found) matches(patterns []string) bool {
	var ref string
	switch {
	case f.Tag != "":
		ref = "refs/tags/" + f.Tag
	case f.Branch != "":
		ref = "refs/heads/" + f.Branch
	default:
		return false
	}
	for _, p := range patterns {
		if !strings.HasPrefix(p, "refs/") {
			p = path.Join("refs/heads", p)
		}
		if matchStars(p, ref) {
			return true
		}
	}
	return false
}

// matchStars matches greedily from both ends: what stands between stars has to
// come in order.
func matchStars(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[last])
}
