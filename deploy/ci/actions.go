package ci

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
)

// maxEvent is the largest event that GitHub sends, in bytes.
const maxEvent = 25 << 20

// dependabot runs with a token that cannot write.
const dependabot = "dependabot[bot]"

// event is what is read of the file of GITHUB_EVENT_PATH. Gitea and Forgejo write
// the same fields.
type event struct {
	PullRequest *pullRequest `json:"pull_request"`
	Repository  *repository  `json:"repository"`
	WorkflowRun *struct {
		Event          string      `json:"event"`
		HeadSHA        string      `json:"head_sha"`
		HeadBranch     string      `json:"head_branch"`
		HeadRepository *repository `json:"head_repository"`
	} `json:"workflow_run"`
	Issue *struct {
		Number      int64            `json:"number"`
		PullRequest *json.RawMessage `json:"pull_request"`
	} `json:"issue"`
}

type pullRequest struct {
	Number int64 `json:"number"`
	Head   side  `json:"head"`
	Base   side  `json:"base"`
}

// side is one of the two branches of a pull request. The repository of a fork that
// was deleted is null.
type side struct {
	SHA  string      `json:"sha"`
	Ref  string      `json:"ref"`
	Repo *repository `json:"repo"`
}

type repository struct {
	ID int64 `json:"id"`
}

// same reports whether both are known to be one repository.
func (r *repository) same(other *repository) bool {
	return r != nil && other != nil && r.ID != 0 && r.ID == other.ID
}

// actions reads what GitHub Actions and its relatives say.
func (r *reader) actions(s System) found {
	ref := r.fact("GITHUB_REF")
	f := found{temp: "RUNNER_TEMP", Run: Run{
		Project: r.plain("GITHUB_REPOSITORY", repositoryPath()),
		Branch:  shortRef(ref, "heads"),
		Tag:     shortRef(ref, "tags"),
		Commit:  r.commit("GITHUB_SHA"),
	}}
	f.JobURL = r.actionsPage(s, f.Project)
	if told := r.Getenv("GITHUB_REF_PROTECTED"); s == GitHub && told != "" {
		f.told, f.protected = true, told == "true"
	}
	r.actionsPull(&f, ref)
	name := r.Getenv("GITHUB_EVENT_NAME")
	f.readOnly = f.fork && strings.HasPrefix(name, "pull_request") && name != "pull_request_target" || r.Getenv("GITHUB_ACTOR") == dependabot
	r.actionsRegistry(s, &f)
	return f
}

// actionsPage is the page of the run; Gitea and Forgejo name it by its number.
func (r *reader) actionsPage(s System, project string) string {
	run := "GITHUB_RUN_NUMBER"
	if s == GitHub {
		run = "GITHUB_RUN_ID"
	}
	return r.page(r.Getenv("GITHUB_SERVER_URL"), project, "actions", "runs", r.plain(run, identifier()))
}

// actionsPull changes f for a run that is about a pull request, by whatever event
// it was begun. GITHUB_SHA is then a merge commit, or one of the target branch.
func (r *reader) actionsPull(f *found, ref string) {
	switch name := r.Getenv("GITHUB_EVENT_NAME"); {
	case strings.HasPrefix(name, "pull_request"), strings.HasPrefix(ref, "refs/pull/"), r.Getenv("GITHUB_HEAD_REF") != "":
		e, _ := r.event()
		f.pullRequest(r, e)
	case name == "workflow_run":
		f.workflowRun(r)
	case name == "issue_comment":
		f.comment(r)
	}
}

// workflowRun is for a run that another one has begun.
func (f *found) workflowRun(r *reader) {
	e, _ := r.event()
	w := e.WorkflowRun
	if w == nil {
		f.unknownPull()
		return
	}
	if !strings.HasPrefix(w.Event, "pull_request") {
		return // of a push
	}
	f.pull, f.fork = true, !w.HeadRepository.same(e.Repository)
	f.Commit = r.commitOf("workflow_run.head_sha of the event", w.HeadSHA)
	f.Branch, f.TargetBranch = r.bounded("workflow_run.head_branch of the event", w.HeadBranch), f.Branch
}

// comment is for a run that a comment has begun.
func (f *found) comment(r *reader) {
	e, known := r.event()
	if known && e.Issue != nil && e.Issue.PullRequest == nil {
		return // to an issue
	}
	f.unknownPull()
	if e.Issue != nil {
		f.PullRequest = number(e.Issue.Number)
	}
}

// unknownPull is for a pull request of which only the run's pipeline knows what it
// checks out.
func (f *found) unknownPull() {
	f.pull, f.fork = true, true
	f.Branch, f.Commit, f.TargetBranch = "", "", f.Branch
}

// event reads the file of the event, and reports whether it could be read.
func (r *reader) event() (event, bool) {
	var e event
	path := r.Getenv("GITHUB_EVENT_PATH")
	if path == "" {
		r.note("GITHUB_EVENT_PATH is not set: the commit of the pull request is not known, and it counts as one of a fork")
		return e, false
	}
	b, err := r.ReadFile(path, maxEvent)
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		r.note("the file of GITHUB_EVENT_PATH cannot be read: the commit of the pull request is not known, and it counts as one of a fork")
		return event{}, false
	}
	return e, true
}

func (f *found) pullRequest(r *reader, e event) {
	f.pull, f.Tag = true, ""
	f.Branch, f.TargetBranch = r.fact("GITHUB_HEAD_REF"), r.fact("GITHUB_BASE_REF")
	before, _, _ := strings.Cut(shortRef(r.fact("GITHUB_REF"), "pull"), "/")
	if identifier().MatchString(before) {
		f.PullRequest = before
	}
	p := e.PullRequest
	if p == nil {
		f.Commit, f.fork = "", true
		return
	}
	f.fork = !p.Head.Repo.same(p.Base.Repo)
	f.Commit = r.commitOf("pull_request.head.sha of the event", p.Head.SHA)
	if f.Branch == "" {
		f.Branch = r.bounded("pull_request.head.ref of the event", p.Head.Ref)
	}
	if f.TargetBranch == "" {
		f.TargetBranch = r.bounded("pull_request.base.ref of the event", p.Base.Ref)
	}
	if n := number(p.Number); n != "" {
		f.PullRequest = n
	}
}

func number(n int64) string {
	if n <= 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// actionsRegistry finds the registry that belongs to the server.
func (r *reader) actionsRegistry(s System, f *found) {
	u, err := url.Parse(r.Getenv("GITHUB_SERVER_URL"))
	if err != nil || u.Host == "" || f.Project == "" {
		return
	}
	host := u.Host
	if s == GitHub { // the token of a job of Gitea cannot push packages
		f.registry.user, f.registry.password = "GITHUB_ACTOR", "GITHUB_TOKEN"
	}
	switch {
	case s != GitHub:
	case u.Hostname() == "github.com":
		host = "ghcr.io"
	default:
		host = "containers." + u.Host
	}
	f.registry.image = host + "/" + strings.ToLower(f.Project)
}
