package ci

import (
	"strings"
)

// gitlab reads what GitLab says. Merge requests of forks run in the fork, unless a
// member of the project has them run in the project.
func (r *reader) gitlab() found {
	f := found{Run: Run{
		Project:     r.plain("CI_PROJECT_PATH", repositoryPath()),
		Commit:      r.commit("CI_COMMIT_SHA"),
		Branch:      r.fact("CI_COMMIT_BRANCH"),
		Tag:         r.fact("CI_COMMIT_TAG"),
		Environment: r.fact("CI_ENVIRONMENT_NAME"),
		JobURL:      r.page(r.Getenv("CI_JOB_URL")),
	}}
	f.told, f.protected = true, r.Getenv("CI_COMMIT_REF_PROTECTED") == "true"
	f.registry = registry{image: r.Getenv("CI_REGISTRY_IMAGE"), user: "CI_REGISTRY_USER", password: "CI_REGISTRY_PASSWORD"}
	switch {
	case r.Getenv("CI_MERGE_REQUEST_IID") != "":
		r.gitlabMerge(&f)
	case r.Getenv("CI_EXTERNAL_PULL_REQUEST_IID") != "":
		f.pull = true
		f.PullRequest = r.plain("CI_EXTERNAL_PULL_REQUEST_IID", identifier())
		f.Branch = r.fact("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME")
		f.TargetBranch = r.fact("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME")
		f.Commit = r.commit("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA")
		f.fork = !r.same("CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY", "CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY")
	}
	return f
}

func (r *reader) gitlabMerge(f *found) {
	f.pull = true
	f.PullRequest = r.plain("CI_MERGE_REQUEST_IID", identifier())
	f.Branch = r.fact("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME")
	f.TargetBranch = r.fact("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
	// It is set only where CI_COMMIT_SHA is a commit that GitLab made to try the merge.
	if c := r.commit("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA"); c != "" {
		f.Commit = c
	}
	f.fork = !r.same("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_MERGE_REQUEST_PROJECT_ID")
	upstream := r.Getenv("CI_MERGE_REQUEST_PROJECT_PATH")
	if f.fork && upstream != "" && upstream != r.Getenv("CI_PROJECT_PATH") {
		// A job of the fork: it can read what everybody can.
		f.registry.foreign = true
		if host := r.Getenv("CI_REGISTRY"); host != "" && r.Getenv("CI_PROJECT_VISIBILITY") == "public" {
			f.registry.upstream = host + "/" + strings.ToLower(upstream)
		}
	}
}

// same reports whether two variables are set and equal.
func (r *reader) same(a, b string) bool {
	return r.Getenv(a) != "" && r.Getenv(a) == r.Getenv(b)
}

// jenkins reads what a multibranch pipeline says.
func (r *reader) jenkins() found {
	f := found{temp: "WORKSPACE_TMP", Run: Run{
		Project: r.projectOf("GIT_URL"),
		Commit:  r.commit("GIT_COMMIT"),
		Tag:     r.fact("TAG_NAME"),
		JobURL:  r.page(r.Getenv("BUILD_URL")),
	}}
	name := r.fact("BRANCH_NAME")
	if name == "" { // a pipeline of one branch; the name is that of the remote's
		name = strings.TrimPrefix(r.fact("GIT_BRANCH"), "origin/")
	}
	switch {
	case r.Getenv("CHANGE_ID") != "":
		f.pull, f.fork = true, r.Getenv("CHANGE_FORK") != ""
		f.PullRequest = r.plain("CHANGE_ID", identifier())
		f.Branch, f.TargetBranch = r.fact("CHANGE_BRANCH"), r.fact("CHANGE_TARGET")
		if strings.HasSuffix(name, "-merge") {
			r.note("GIT_COMMIT is a merge that Jenkins made: the commit of the pull request is not known")
			f.Commit = ""
		}
	case f.Tag == "":
		f.Branch = name
	}
	return f
}

// projectOf returns the path of a repository's address, which may hold a login.
func (r *reader) projectOf(name string) string {
	s := r.Getenv(name)
	if _, after, ok := strings.Cut(s, "://"); ok {
		_, s, _ = strings.Cut(after, "/")
	} else if _, after, ok := strings.Cut(s, ":"); ok { // host:path of SSH
		s = after
	}
	s = strings.Trim(strings.TrimSuffix(s, ".git"), "/")
	if !repositoryPath().MatchString(s) {
		return ""
	}
	return s
}

// bitbucket reads what Bitbucket Pipelines say. They do not run for pull requests of forks.
func (r *reader) bitbucket() found {
	f := found{Run: Run{
		Project:      r.plain("BITBUCKET_REPO_FULL_NAME", repositoryPath()),
		Commit:       r.commit("BITBUCKET_COMMIT"),
		Branch:       r.fact("BITBUCKET_BRANCH"),
		Tag:          r.fact("BITBUCKET_TAG"),
		PullRequest:  r.plain("BITBUCKET_PR_ID", identifier()),
		TargetBranch: r.fact("BITBUCKET_PR_DESTINATION_BRANCH"),
		Environment:  r.fact("BITBUCKET_DEPLOYMENT_ENVIRONMENT"),
	}}
	f.JobURL = r.page("https://bitbucket.org", f.Project, "pipelines", "results", r.plain("BITBUCKET_BUILD_NUMBER", identifier()))
	f.pull = r.Getenv("BITBUCKET_PR_ID") != ""
	return f
}

// azure reads what Azure Pipelines say.
func (r *reader) azure() found {
	ref := r.fact("BUILD_SOURCEBRANCH")
	f := found{temp: "AGENT_TEMPDIRECTORY", Run: Run{
		Project:     r.plain("BUILD_REPOSITORY_NAME", repositoryPath()),
		Commit:      r.commit("BUILD_SOURCEVERSION"),
		Branch:      shortRef(ref, "heads"),
		Tag:         shortRef(ref, "tags"),
		Environment: r.fact("ENVIRONMENT_NAME"),
		JobURL:      r.azurePage(),
	}}
	if r.Getenv("SYSTEM_PULLREQUEST_PULLREQUESTID") == "" && !strings.HasPrefix(ref, "refs/pull/") {
		return f
	}
	f.pull = true
	f.fork = !strings.EqualFold(r.Getenv("SYSTEM_PULLREQUEST_ISFORK"), "false")
	// The id is the server's own; where the sources are at GitHub, people know the number.
	if f.PullRequest = r.plain("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER", identifier()); f.PullRequest == "" {
		f.PullRequest = r.plain("SYSTEM_PULLREQUEST_PULLREQUESTID", identifier())
	}
	f.Branch = strings.TrimPrefix(r.fact("SYSTEM_PULLREQUEST_SOURCEBRANCH"), "refs/heads/")
	f.TargetBranch = strings.TrimPrefix(r.fact("SYSTEM_PULLREQUEST_TARGETBRANCH"), "refs/heads/")
	// BUILD_SOURCEVERSION is a merge commit.
	if f.Commit = r.commit("SYSTEM_PULLREQUEST_SOURCECOMMITID"); f.Commit == "" {
		r.note("SYSTEM_PULLREQUEST_SOURCECOMMITID is not set: the commit of the pull request is not known")
	}
	return f
}

func (r *reader) azurePage() string {
	page := r.page(r.Getenv("SYSTEM_COLLECTIONURI"), r.fact("SYSTEM_TEAMPROJECT"), "_build", "results")
	id := r.plain("BUILD_BUILDID", identifier())
	if page == "" || id == "" {
		return ""
	}
	return page + "?buildId=" + id
}

// generic takes the facts from where they would go to.
func (r *reader) generic() found {
	get := func(name string) string { return r.fact(factPrefix + name) }
	f := found{Run: Run{
		Project:      get("PROJECT"),
		Commit:       r.commit(factPrefix + "COMMIT"),
		Branch:       get("BRANCH"),
		Tag:          get("TAG"),
		PullRequest:  r.plain(factPrefix+"PULL_REQUEST", identifier()),
		TargetBranch: get("TARGET_BRANCH"),
		JobURL:       r.page(r.Getenv(factPrefix + "JOB_URL")),
	}}
	f.pull = r.Getenv(factPrefix+"PULL_REQUEST") != ""
	switch Scope(r.Getenv(factPrefix + "SCOPE")) {
	case Protected:
		f.told, f.protected = true, true
	case Unprotected:
		f.told = true
	default:
		f.fork = true // unless it is no pull request
	}
	f.pull = f.pull || Scope(r.Getenv(factPrefix+"SCOPE")) == Fork
	return f
}
