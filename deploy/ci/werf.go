package ci

import (
	"net/url"
	"strings"
)

// werf reads the variables of werf that have an equal here: those of a place into
// q, where q does not have them, the others as settings. Where both names are set,
// ours goes first.
func (r *reader) werf(q *Request) []Assignment {
	if repo := r.Getenv("WERF_REPO"); repo != "" && q.Storage == "" {
		// What werf has built is of no use here, and its cleanup shall not find ours.
		r.note("WERF_REPO is understood: stages go to the repository \"stages\" below it; its name here is CAIRN_STAGES_STORAGE")
		q.Storage = repo + repositoryName
	} else if repo != "" && !strings.HasPrefix(q.Storage, repo+repositoryName) {
		r.note("WERF_REPO is not used: CAIRN_STAGES_STORAGE is set as well")
	}
	if theirs := r.fact("WERF_SYNCHRONIZATION"); theirs != "" {
		address, ok := synchronizationOf(theirs)
		if !ok {
			r.note("WERF_SYNCHRONIZATION has no equal: name a ledger with CAIRN_SYNCHRONIZATION (:local or kubernetes://NAMESPACE)")
		}
		q.Synchronization = r.understood("WERF_SYNCHRONIZATION", "CAIRN_SYNCHRONIZATION", address, q.Synchronization)
	}
	var out []Assignment
	for _, w := range []struct {
		theirs, ours string
		value        func(string) string
	}{
		{"WERF_DIR", "CAIRN_DIR", func(s string) string { return s }},
		{"WERF_DEV", "CAIRN_DEV", yesNo},
		{"WERF_PARALLEL_TASKS_LIMIT", "CAIRN_PARALLEL", atMost},
		{"WERF_LOG_DEBUG", "CAIRN_LOG_LEVEL", debug},
	} {
		ours := r.Getenv(w.ours)
		if v := r.understood(w.theirs, w.ours, w.value(r.fact(w.theirs)), ours); v != ours {
			out = append(out, Assignment{Name: w.ours, Value: v})
		}
	}
	r.without()
	return out
}

// understood returns ours where it is given, else theirs, and says that there was one.
func (r *reader) understood(name, ourName, theirs, ours string) string {
	switch {
	case theirs == "" || theirs == ours:
		return ours
	case ours != "":
		r.note("%s is not used: %s is set as well", name, ourName)
		return ours
	default:
		r.note("%s is understood: its name here is %s", name, ourName)
		return theirs
	}
}

// without names what has no equal and what there is in its place.
func (r *reader) without() {
	for _, w := range [][2]string{
		{"WERF_SECONDARY_REPO_1", "stages of werf are of no use here; CAIRN_SECONDARY_STORAGE names a repository of stages of cairn"},
		{"WERF_PLATFORM", "write \"platform\" into cairn.yaml"},
		{"WERF_SKIP_TLS_VERIFY_REGISTRY", "name the registry's certificate with CAIRN_REGISTRY_CA"},
		{"WERF_INSECURE_REGISTRY", "plain HTTP is spoken with loopback addresses only"},
		{"WERF_FINAL_REPO", "images are used by the digests of the build report"},
		{"WERF_BUILD_REPORT_PATH", "CAIRN_REPORT_FILE names a report, which has another form"},
	} {
		if r.Getenv(w[0]) != "" {
			r.note("%s has no equal: %s", w[0], w[1])
		}
	}
}

// synchronizationOf translates :local and kubernetes://NAMESPACE[:CONTEXT][@FILE].
func synchronizationOf(s string) (string, bool) {
	if s == local {
		return s, true
	}
	rest, ok := strings.CutPrefix(s, clusterScheme+"://")
	rest, file, _ := strings.Cut(rest, "@")
	if !ok || strings.HasPrefix(file, "base64:") || strings.ContainsAny(rest, "/?#") {
		return "", false
	}
	namespace, context, _ := strings.Cut(rest, ":")
	query := url.Values{}
	if context != "" {
		query.Set("context", context)
	}
	if file != "" {
		query.Set("kubeconfig", file)
	}
	u := url.URL{Scheme: clusterScheme, Host: namespace, RawQuery: query.Encode()}
	return u.String(), true
}

func yesNo(s string) string {
	switch strings.ToLower(s) {
	case "1", "true", "yes":
		return "true"
	default:
		return ""
	}
}

func debug(s string) string {
	if yesNo(s) == "" {
		return ""
	}
	return "debug"
}

// atMost drops what is no number above 0: werf has -1 for no limit.
func atMost(s string) string {
	if s == "" || len(s) > 4 || s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return ""
	}
	return s
}
