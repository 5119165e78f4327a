package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// RefKind is a kind of git references.
type RefKind string

// The kinds of references that a policy can be about.
const (
	RefBranch RefKind = "branch"
	RefTag    RefKind = "tag"
)

// Operator says how the two conditions of a [Limit] are joined.
type Operator string

// The operators.
const (
	OperatorAnd Operator = "And"
	OperatorOr  Operator = "Or"
)

// Unlimited is a [Limit.Last] that limits nothing.
const Unlimited = -1

const (
	// defaultBuiltWithin is for how long a cleanup keeps what was just built.
	defaultBuiltWithin = 2 * time.Hour
	maxPattern         = 1_000     // bytes of a pattern of references
	maxKeepHours       = 24 * 3660 // ten years
)

// Cleanup says what a cleanup of the stages storage keeps.
type Cleanup struct {
	// Disabled has a cleanup refuse to do anything; only a werf.yaml can say so.
	Disabled bool
	// WithoutKubernetes has no cluster be asked what it uses; only a werf.yaml can
	// say so.
	WithoutKubernetes bool
	// KeepBuiltWithin is the age up to which everything is kept; 0 for none.
	KeepBuiltWithin time.Duration
	// KeepPolicies in the order of the file; the default ones where it has none.
	KeepPolicies []KeepPolicy
}

// KeepPolicy keeps builds of git references.
type KeepPolicy struct {
	Kind RefKind
	// Name is the one reference that is meant; empty where Pattern is set.
	Name string
	// Pattern matches a part of the names of those that are meant, or is nil.
	Pattern *regexp.Regexp
	// References limits the references, Images the builds of each.
	References, Images Limit
	// Line is where the policy stands in the configuration file; 0 for a default one.
	Line int
}

// Limit keeps the latest of things that have a time.
type Limit struct {
	// Last is how many are kept, or [Unlimited].
	Last int
	// In is how old they may be; 0 for any age.
	In time.Duration
	// Operator joins the two.
	Operator Operator
}

// Matches reports whether the policy is about a reference.
func (p KeepPolicy) Matches(kind RefKind, name string) bool {
	if p.Kind != kind {
		return false
	}
	if p.Pattern != nil {
		return p.Pattern.MatchString(name)
	}
	return p.Name == name
}

// String names the references as the file does: "branch /^v/".
func (p KeepPolicy) String() string {
	if p.Pattern != nil {
		return fmt.Sprintf("%s /%s/", p.Kind, p.Pattern)
	}
	return fmt.Sprintf("%s %s", p.Kind, p.Name)
}

// DefaultCleanup is what holds for a project that says nothing: the last build of
// each of the ten latest tags, up to two builds of the last week of each of the ten
// most active branches, and ten of each branch that deployments usually follow.
func DefaultCleanup() Cleanup {
	const week = 7 * 24 * time.Hour
	all, main := regexp.MustCompile(`.*`), regexp.MustCompile(`^(main|master|staging|production)$`)
	any := Limit{Last: Unlimited, Operator: OperatorAnd}
	return Cleanup{KeepBuiltWithin: defaultBuiltWithin, KeepPolicies: []KeepPolicy{
		{Kind: RefTag, Pattern: all, References: Limit{Last: 10, Operator: OperatorAnd}, Images: Limit{Last: 1, Operator: OperatorAnd}},
		{Kind: RefBranch, Pattern: all, References: Limit{10, week, OperatorAnd}, Images: Limit{2, week, OperatorAnd}},
		{Kind: RefBranch, Pattern: main, References: any, Images: Limit{Last: 10, Operator: OperatorAnd}},
	}}
}

// cleanupDoc is the cleanup: key before its parts are put together.
type cleanupDoc struct {
	Cleanup
	withoutGit, withoutAge bool
	// aged is set where the file gives an age.
	aged bool
}

func cleanupObject() value[Cleanup] {
	type d = cleanupDoc
	werf := func(name, doc string, set func(*d, bool)) fieldOf[d] {
		return field(keyInfo{name: name, doc: doc, werfOnly: true}, boolean(), func(t *d, v bool, _ *yaml.Node) { set(t, v) })
	}
	hours := func(name string, cairn bool) fieldOf[d] {
		return field(keyInfo{name: name, doc: "Keep whatever was built within this many hours; 0 for nothing. What is not known to be older counts as younger.", otherwise: "2", cairnOnly: cairn, werfOnly: !cairn},
			keepHours(), func(t *d, v int, _ *yaml.Node) { t.KeepBuiltWithin, t.aged = time.Duration(v)*time.Hour, true })
	}
	v := object[d]{
		title:   "cleanup",
		doc:     "What \"cairn cleanup\" keeps, besides what clusters use: see [cleanup](../cleanup.md).",
		example: "cleanup:\n  keepBuiltWithinLastNHours: 12\n  keepPolicies:\n  - references:\n      tag: /^v[0-9]/\n      limit: {last: 20}\n  - references:\n      branch: /.*/\n      limit: {last: 15, in: 240h}\n    imagesPerReference: {last: 2}\n  - references:\n      branch: main\n    imagesPerReference: {last: 10, in: 720h, operator: Or}\n",
	}.asValue(
		field(keyInfo{name: "keepPolicies", doc: "Which builds of which git references are kept. Where several fit a reference, the last one counts. An empty list keeps none for git's sake.", otherwise: "tags: the last build of the 10 latest; branches: 2 builds of the 10 most active within a week; main, master, staging and production: 10 builds"},
			listOf(policyObject()), func(t *d, v []KeepPolicy, _ *yaml.Node) { t.KeepPolicies = v }),
		hours("keepBuiltWithinLastNHours", true),
		hours("keepImagesBuiltWithinLastNHours", false),
		werf("disable", "Have no cleanup done.", func(t *d, v bool) { t.Disabled = v }),
		werf("disableGitHistoryBasedPolicy", "Keep nothing for git's sake.", func(t *d, v bool) { t.withoutGit = v }),
		werf("disableKubernetesBasedPolicy", "Ask no cluster what it uses.", func(t *d, v bool) { t.WithoutKubernetes = v }),
		werf("disableBuiltWithinLastNHoursPolicy", "Keep nothing for its age.", func(t *d, v bool) { t.withoutAge = v }),
	)
	return checked(v, v.words, func(t d) (Cleanup, error) { return t.finished(), nil })
}

// finished fills in what the file does not say.
func (d cleanupDoc) finished() Cleanup {
	out, otherwise := d.Cleanup, DefaultCleanup()
	if out.KeepPolicies == nil {
		out.KeepPolicies = otherwise.KeepPolicies
	}
	if d.withoutGit {
		out.KeepPolicies = []KeepPolicy{}
	}
	if !d.aged {
		out.KeepBuiltWithin = otherwise.KeepBuiltWithin
	}
	if d.withoutAge {
		out.KeepBuiltWithin = 0
	}
	return out
}

func keepHours() value[int] {
	v := checked(number(), "a number of hours", func(n int) (int, error) {
		if n > maxKeepHours {
			return 0, fmt.Errorf("%d hours are more than ten years", n)
		}
		return n, nil
	})
	v.schema = map[string]any{"type": "integer", "minimum": 0, "maximum": maxKeepHours}
	return v
}

// referencesDoc is the references: key of a policy.
type referencesDoc struct {
	kind    RefKind
	name    string
	pattern *regexp.Regexp
	limit   Limit
}

func policyObject() value[KeepPolicy] {
	type d = KeepPolicy
	return object[d]{
		title: "cleanup.keepPolicies",
		doc:   "One policy. The commit that a kept reference names is kept always; imagesPerReference says how many builds of older commits are.",
		finish: func(r *reader, n *yaml.Node, present map[string]*yaml.Node, p *d) {
			p.Line = r.line(n)
			if present["imagesPerReference"] == nil {
				p.Images = Limit{Last: 1, Operator: OperatorAnd}
			}
			if p.Kind == RefTag && p.Images.Last > 1 {
				r.failf(present["imagesPerReference"], "remove imagesPerReference, or write \"last: 1\"", "imagesPerReference: a tag names one commit, so only \"last: 1\" makes sense")
			}
		},
	}.asValue(
		field(keyInfo{name: "references", required: true, doc: "The branches or tags that it is about."}, referencesObject(), func(t *d, v referencesDoc, _ *yaml.Node) {
			t.Kind, t.Name, t.Pattern, t.References = v.kind, v.name, v.pattern, v.limit
		}),
		field(keyInfo{name: "imagesPerReference", doc: "Which builds of each of them, by the times of their commits. A commit counts when a build of it is in the storage; equal builds count once.", otherwise: "the last one"},
			limitObject("cleanup.keepPolicies.imagesPerReference", "Which builds of a reference are kept.", "builds", "1, or all where \"in\" is given"),
			func(t *d, v limitDoc, _ *yaml.Node) {
				t.Images = v.Limit
				if !v.hasLast && !v.hasIn {
					t.Images.Last = 1
				}
			}),
	)
}

func referencesObject() value[referencesDoc] {
	type d = referencesDoc
	return object[d]{
		title: "cleanup.keepPolicies.references",
		doc:   "Exactly one of branch and tag is given: a name, or a regular expression between slashes, which matches any part of a name. Branches are those of the remote, named without it.",
		finish: func(r *reader, n *yaml.Node, present map[string]*yaml.Node, into *d) {
			if present["limit"] == nil {
				into.limit = Limit{Last: Unlimited, Operator: OperatorAnd}
			}
			switch {
			case present["branch"] != nil && present["tag"] != nil:
				r.failf(present["tag"], "write two policies", `"branch" and "tag" exclude each other`)
			case present["branch"] == nil && present["tag"] == nil:
				r.failf(n, `for instance "branch: main" or "tag: /^v/"`, `want one of the keys "branch" and "tag"`)
			}
		},
	}.asValue(
		field(keyInfo{name: "branch", doc: "Branches that are meant."}, refPattern(), func(t *d, v refMatch, _ *yaml.Node) { t.kind, t.name, t.pattern = RefBranch, v.name, v.pattern }),
		field(keyInfo{name: "tag", doc: "Tags that are meant."}, refPattern(), func(t *d, v refMatch, _ *yaml.Node) { t.kind, t.name, t.pattern = RefTag, v.name, v.pattern }),
		field(keyInfo{name: "limit", doc: "Only the latest of them, by the time of the branch's last commit or of the tag.", otherwise: "all"},
			limitObject("cleanup.keepPolicies.references.limit", "Which of the references are kept.", "references", "all"),
			func(t *d, v limitDoc, _ *yaml.Node) { t.limit = v.Limit }),
	)
}

// refMatch is a name or a pattern of references.
type refMatch struct {
	name    string
	pattern *regexp.Regexp
}

func refPattern() value[refMatch] {
	return checked(plain(), "a name or /a regular expression/", func(s string) (refMatch, error) {
		if len(s) > maxPattern {
			return refMatch{}, fmt.Errorf("it has %d characters; at most %d are allowed", len(s), maxPattern)
		}
		inner, opened := strings.CutPrefix(s, "/")
		if !opened {
			if strings.TrimSpace(s) == "" {
				return refMatch{}, errors.New("the name is empty")
			}
			return refMatch{name: s}, nil
		}
		text, closed := strings.CutSuffix(inner, "/")
		if !closed || inner == "" {
			return refMatch{}, fmt.Errorf("%q is no regular expression: a / at the end is missing", shorten(s))
		}
		pattern, err := regexp.Compile(text)
		if err != nil {
			return refMatch{}, fmt.Errorf("%q is no regular expression: %w", shorten(s), err)
		}
		return refMatch{pattern: pattern}, nil
	})
}

// limitDoc is a limit with what was given of it.
type limitDoc struct {
	Limit
	hasLast, hasIn bool
}

func limitObject(title, doc, things, lastOtherwise string) value[limitDoc] {
	type d = limitDoc
	return object[d]{
		title: title, doc: doc,
		finish: func(r *reader, _ *yaml.Node, present map[string]*yaml.Node, into *d) {
			into.hasLast, into.hasIn = present["last"] != nil, present["in"] != nil
			if !into.hasLast {
				into.Last = Unlimited
			}
			if into.Operator == "" {
				into.Operator = OperatorAnd
			}
			at := present["operator"]
			switch {
			case at != nil && (!into.hasLast || !into.hasIn):
				r.failf(at, "remove it, or give both", `"operator" joins "last" and "in", and one of them is missing`)
			case at != nil && into.Operator == OperatorOr && into.Last == Unlimited:
				r.failf(at, "write And, or a number for last", `"last: -1" does not limit, so with "Or" the key "in" has no effect`)
			}
		},
	}.asValue(
		field(keyInfo{name: "last", doc: "How many " + things + ", the latest; -1 for all.", otherwise: lastOtherwise}, lastValue(things), func(t *d, v int, _ *yaml.Node) { t.Last = v }),
		field(keyInfo{name: "in", doc: "How old they may be: a duration such as 168h.", otherwise: "any age"}, duration(), func(t *d, v int64, _ *yaml.Node) { t.In = time.Duration(v) }),
		field(keyInfo{name: "operator", doc: "Whether both have to hold or one is enough.", otherwise: "And"}, oneOf(string(OperatorAnd), string(OperatorOr)), func(t *d, v string, _ *yaml.Node) { t.Operator = Operator(v) }),
	)
}

// lastValue reads how many are kept.
func lastValue(things string) value[int] {
	const words = "a number from 1 on, or -1 for all"
	v := checked(plain(), words, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil || n < Unlimited || n > 1<<30:
			return 0, fmt.Errorf("%q: want %s", shorten(s), words)
		case n == 0:
			return 0, fmt.Errorf("0 %s are none at all: want %s, or remove the policy", things, words)
		}
		return n, nil
	})
	v.words = words
	v.schema = map[string]any{"type": "integer", "minimum": Unlimited, "not": map[string]any{"const": 0}}
	return v
}

// boolean reads true or false.
func boolean() value[bool] {
	const words = "true or false"
	return value[bool]{words: words, schema: map[string]any{"type": "boolean"}, read: func(r *reader, n *yaml.Node) (bool, bool) {
		n, ok := r.resolve(n)
		if !ok {
			return false, false
		}
		b, err := strconv.ParseBool(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || err != nil {
			r.mismatch(n, words)
			return false, false
		}
		return b, true
	}}
}
