package ci

import (
	"net/url"
	"regexp"
	"strings"
)

const (
	// local is the address of a storage or a ledger on the job's host.
	local = ":local"
	// repositoryName is that of the stages below a project's repository.
	repositoryName = "/stages"
	// clusterScheme begins the addresses of ledgers in a cluster, and
	// defaultNamespace is where they are unless the address says otherwise.
	clusterScheme    = "kubernetes"
	defaultNamespace = "cairn-synchronization"
	// maxNamespace is the longest name of a namespace, in bytes.
	maxNamespace = 63
)

// place is where a run reads and writes.
type place struct {
	storage, secondary, synchronization string
}

// place decides where a run of a scope reads and writes. A run that is not
// protected has a repository and a ledger of its own, and only reads the project's.
func (f found) place(r *reader, q Request, scope Scope) (place, error) {
	p := place{storage: q.Storage, secondary: q.Secondary}
	if p.storage == "" && f.registry.image != "" {
		p.storage = f.registry.image + repositoryName
	}
	if p.storage == "" {
		r.note("no registry comes with this system: name the project's repository with CAIRN_STAGES_STORAGE")
		return place{secondary: q.Secondary, synchronization: q.Synchronization}, nil
	}
	if scope != Protected {
		p = f.apart(r, q, p, scope)
	}
	for _, address := range []string{p.storage, p.secondary} {
		if address != "" && address != local && !isRepository(address) {
			return place{}, &ValueError{"CAIRN_STAGES_STORAGE", "what was derived for it is no repository of a registry", "set it to HOST[:PORT]/PATH, for instance registry.example.com/shop/stages"}
		}
	}
	var err error
	p.synchronization, err = ledger(r, q, p, scope)
	return p, err
}

// apart gives a scope a repository of its own. It leaves alone what it gave before:
// a job may call it more than once.
func (f found) apart(r *reader, q Request, p place, scope Scope) place {
	suffix := "-" + string(scope)
	if p.storage == local || strings.HasSuffix(p.storage, suffix) {
		return p
	}
	if p.secondary != "" {
		r.note("CAIRN_SECONDARY_STORAGE is not used: a run that is not protected reads the project's storage in its place")
	}
	switch {
	case f.readOnly && q.Password == "":
		r.note("the job's token cannot write to the registry: stages stay on this host")
		return place{storage: local, secondary: p.storage}
	case f.registry.foreign && q.Storage == "":
		out := place{storage: p.storage + suffix}
		if f.registry.upstream != "" {
			out.secondary = f.registry.upstream + repositoryName
		}
		return out
	default:
		return place{storage: p.storage + suffix, secondary: p.storage}
	}
}

// ledger returns the address of the ledger of a scope.
func ledger(r *reader, q Request, p place, scope Scope) (string, error) {
	address := q.Synchronization
	if address == "" {
		address = r.Ledger(p.storage)
	}
	if scope == Protected {
		return address, nil
	}
	if p.storage == local {
		return local, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != clusterScheme {
		return address, nil // of this host: each storage has one of its own
	}
	if u.Host == "" {
		u.Host = defaultNamespace
	}
	if suffix := "-" + string(scope); !strings.HasSuffix(u.Host, suffix) {
		u.Host += suffix
	}
	if len(u.Host) > maxNamespace {
		return "", &ValueError{"CAIRN_SYNCHRONIZATION", "the namespace is too long for the one of the scope \"" + string(scope) + "\" beside it", "name one of at most 50 characters"}
	}
	return u.String(), nil
}

// isRepository reports whether an address is one of a repository; whether a
// registry would have it, the build finds out.
func isRepository(address string) bool {
	return len(address) <= 512 && regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`).MatchString(address)
}

// attributes adds the run to the attributes that traces carry, in the form of
// OpenTelemetry's specification. What is there stays.
func (run Run) attributes(given string) string {
	there := map[string]bool{}
	var all []string
	if given != "" {
		all = append(all, given)
	}
	for pair := range strings.SplitSeq(given, ",") {
		key, _, _ := strings.Cut(pair, "=")
		there[strings.TrimSpace(key)] = true
	}
	head := run.Branch
	if run.Tag != "" {
		head = run.Tag
	}
	for _, a := range [][2]string{
		{"cicd.pipeline.task.run.url.full", run.JobURL},
		{"vcs.ref.head.name", head},
		{"vcs.ref.head.revision", run.Commit},
		{"vcs.change.id", run.PullRequest},
	} {
		if a[1] != "" && !there[a[0]] {
			all = append(all, a[0]+"="+percent(a[1]))
		}
	}
	return strings.Join(all, ",")
}

// percent encodes all that could end a value.
func percent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isAlphanumeric(c) || strings.IndexByte("-._~/:", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
