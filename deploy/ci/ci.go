package ci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// System is a CI system.
type System string

// The systems that are known.
const (
	GitLab    System = "gitlab"
	GitHub    System = "github"
	Gitea     System = "gitea"
	Forgejo   System = "forgejo"
	Jenkins   System = "jenkins"
	Bitbucket System = "bitbucket"
	Azure     System = "azure"
	TeamCity  System = "teamcity"
	// Generic is any other: it says in the variables of [Run] what the run is about.
	Generic System = "generic"
)

// Systems returns all of them.
func Systems() []System {
	return []System{GitLab, GitHub, Gitea, Forgejo, Jenkins, Bitbucket, Azure, TeamCity, Generic}
}

// signs are the variables by which a system is known, in the order in which they
// are looked at: Gitea and Forgejo set GitHub's as well.
func signs() []struct {
	system System
	name   string
} {
	return []struct {
		system System
		name   string
	}{
		{Forgejo, "FORGEJO_ACTIONS"}, {Gitea, "GITEA_ACTIONS"}, {GitHub, "GITHUB_ACTIONS"}, {GitLab, "GITLAB_CI"},
		{Jenkins, "JENKINS_URL"}, {Bitbucket, "BITBUCKET_BUILD_NUMBER"}, {TeamCity, "TEAMCITY_VERSION"}, {Azure, "TF_BUILD"},
	}
}

// Scope is how much a run is trusted, which decides where it writes to.
type Scope string

// The scopes. What one publishes is never adopted by one that stands above it.
const (
	// Protected is what only those may change who may change what is released.
	Protected Scope = "protected"
	// Unprotected is any other branch, tag or pull request of the project.
	Unprotected Scope = "unprotected"
	// Fork is a pull request of another repository, or one of which that is not known.
	Fork Scope = "fork"
)

// Run is what a job is about. What is not known is "".
type Run struct {
	System System
	// Project is the repository's path, such as "group/shop".
	Project string
	// Commit is in lower-case hexadecimal. For a pull request it is the last commit
	// of its branch, not one that the system made to merge it.
	Commit string
	// Branch is the pull request's own for a pull request.
	Branch string
	Tag    string
	// PullRequest is its number or id, and TargetBranch where it is to be merged.
	PullRequest, TargetBranch string
	// Environment is what the job deploys to.
	Environment string
	// JobURL is the job's page.
	JobURL string
}

// Surroundings are what a job finds itself in.
type Surroundings struct {
	// Getenv looks up a variable, "" where it is not set.
	Getenv func(name string) string
	// ReadFile returns the content of a regular file of at most limit bytes.
	ReadFile func(path string, limit int64) ([]byte, error)
	// Ledger returns the address of the ledger that a build with a storage uses
	// when it is not told one.
	Ledger func(storage string) string
}

// Request is what a user says about it.
type Request struct {
	// System is the one to take this for; "" finds out.
	System System
	// Storage, Secondary and Synchronization are the project's; "" is not given.
	Storage, Secondary, Synchronization string
	// Protected are patterns of trusted branches (full references for others, such
	// as refs/tags/v*); they go before what the system says.
	Protected []string
	// User and Password are a login for the storage's registry; without a password
	// it is the system's own, where there is one.
	User, Password string
}

// Assignment is a variable with its value.
type Assignment struct {
	Name, Value string
	// Fact is one that builds do not read: it is for scripts.
	Fact bool
}

// Result is what was derived.
type Result struct {
	Run         Run
	Scope       Scope
	Assignments []Assignment
	// Login is to be written into a Docker configuration; nil is none.
	Login *Login
	// Temp is a directory that is gone with the job; "" where none is known.
	Temp string
	// Notes are for people. They hold no value of any variable.
	Notes []string
}

// Assign adds a setting.
func (r *Result) Assign(name, value string) {
	r.Assignments = append(r.Assignments, Assignment{Name: name, Value: value})
}

// ErrUnknown is returned where no system is known by its variables.
var ErrUnknown = errors.New("no CI system is known by its variables")

// Detect returns the system that a job runs in, or [ErrUnknown].
func Detect(getenv func(string) string) (System, error) {
	for _, s := range signs() {
		if getenv(s.name) != "" {
			return s.system, nil
		}
	}
	return "", ErrUnknown
}

// Derive derives everything. It fails with [ErrUnknown], with a
// [*SystemError] for a system that does not exist, and with a [*ValueError] for
// values that would be settings and cannot be.
func Derive(in Surroundings, q Request) (Result, error) {
	if q.System == "" {
		var err error
		if q.System, err = Detect(in.Getenv); err != nil {
			return Result{}, err
		}
	}
	if !slices.Contains(Systems(), q.System) {
		return Result{}, &SystemError{q.System}
	}
	r := &reader{Surroundings: in}
	for _, s := range signs() {
		if s.system == q.System && in.Getenv(s.name) == "" {
			r.note("%s is not set: is this a job of %s?", s.name, q.System)
		}
	}
	settings := r.werf(&q)
	found := r.find(q.System)
	found.System = q.System
	if found.Environment == "" {
		found.Environment = r.fact("CAIRN_CI_ENVIRONMENT")
	}
	if found.Environment == "" {
		found.Environment = r.fact("WERF_ENV")
	}
	out := Result{Run: found.Run, Scope: found.scope(q.Protected), Temp: r.fact(found.temp)}
	place, err := found.place(r, q, out.Scope)
	if err != nil {
		return Result{}, err
	}
	if out.Login, err = found.login(r, q, place); err != nil {
		return Result{}, err
	}
	out.settle(r, place, settings)
	out.Notes = r.notes
	return out, nil
}

// settle writes down what is to be assigned, settings first.
func (r *Result) settle(from *reader, p place, more []Assignment) {
	for _, a := range []Assignment{
		{Name: "CAIRN_STAGES_STORAGE", Value: p.storage},
		{Name: "CAIRN_SECONDARY_STORAGE", Value: p.secondary},
		{Name: "CAIRN_SYNCHRONIZATION", Value: p.synchronization},
		{Name: "OTEL_RESOURCE_ATTRIBUTES", Value: r.Run.attributes(from.Getenv("OTEL_RESOURCE_ATTRIBUTES"))},
	} {
		if a.Value != "" {
			r.Assignments = append(r.Assignments, a)
		}
	}
	r.Assignments = append(r.Assignments, more...)
	for _, fact := range r.facts() {
		r.Assignments = append(r.Assignments, Assignment{Name: factPrefix + fact[0], Value: fact[1], Fact: true})
	}
}

// factPrefix begins the variables that tell scripts of the run. No flag has a name
// that begins so.
const factPrefix = "CAIRN_CI_"

func (r *Result) facts() [][2]string {
	return [][2]string{
		{"SYSTEM", string(r.Run.System)}, {"SCOPE", string(r.Scope)}, {"PROJECT", r.Run.Project}, {"COMMIT", r.Run.Commit},
		{"BRANCH", r.Run.Branch}, {"TAG", r.Run.Tag}, {"PULL_REQUEST", r.Run.PullRequest}, {"TARGET_BRANCH", r.Run.TargetBranch},
		{"ENVIRONMENT", r.Run.Environment}, {"JOB_URL", r.Run.JobURL},
	}
}

// FactNames returns the variables of a [Run], which are always assigned.
func FactNames() []string {
	var out []string
	for _, f := range (&Result{}).facts() {
		out = append(out, factPrefix+f[0])
	}
	return out
}

// SystemError says that a system is not known.
type SystemError struct{ System System }

// Error implements error.
func (e *SystemError) Error() string {
	names := make([]string, 0, len(Systems()))
	for _, s := range Systems() {
		names = append(names, string(s))
	}
	return fmt.Sprintf("%q is no CI system that is known: want %s", string(e.System), strings.Join(names, ", "))
}

// ValueError says that a variable cannot be used. It does not repeat the value.
type ValueError struct {
	// Name is the variable's.
	Name string
	// Problem says what is wrong, and What to do about it.
	Problem, What string
}

// Error implements error.
func (e *ValueError) Error() string { return e.Name + ": " + e.Problem }

// Hint says what to do.
func (e *ValueError) Hint() string { return e.What }
