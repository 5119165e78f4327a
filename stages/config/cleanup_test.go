package config_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages/config"
)

func TestAProjectThatSaysNothingOfCleanupHasDefaults(t *testing.T) {
	for name, head := range map[string]string{
		"no key":       "",
		"an empty key": "cleanup: {}\n",
		"a null list":  "cleanup: {}\nconfigVersion: 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := mustLoad(t, "cairn.yaml", "project: p\n"+head+"---\nimage: a\nfrom: scratch\n", nil, nil).Cleanup
			want := config.DefaultCleanup()
			if got.KeepBuiltWithin != want.KeepBuiltWithin || len(got.KeepPolicies) != len(want.KeepPolicies) {
				t.Errorf("got %+v", got)
			}
			for i, p := range got.KeepPolicies {
				w := want.KeepPolicies[i]
				if p.String() != w.String() || p.References != w.References || p.Images != w.Images {
					t.Errorf("policy %d is %+v", i, p)
				}
			}
		})
	}
}

func TestPoliciesCanBeTurnedOff(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", "project: p\ncleanup: {keepPolicies: [], keepBuiltWithinLastNHours: 0}\n---\nimage: a\nfrom: scratch\n", nil, nil)
	if len(p.Cleanup.KeepPolicies) != 0 || p.Cleanup.KeepBuiltWithin != 0 {
		t.Errorf("cairn.yaml: %+v", p.Cleanup)
	}
	p = mustLoad(t, "werf.yaml", "project: p\nconfigVersion: 1\ncleanup:\n  disable: true\n  disableGitHistoryBasedPolicy: true\n  disableBuiltWithinLastNHoursPolicy: true\n  keepImagesBuiltWithinLastNHours: 3\n---\nimage: a\nfrom: scratch\n", nil, nil)
	if c := p.Cleanup; !c.Disabled || len(c.KeepPolicies) != 0 || c.KeepBuiltWithin != 0 {
		t.Errorf("werf.yaml: %+v", c)
	}
}

func TestReferencesAreMeantByNameOrByPattern(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", "project: p\ncleanup:\n  keepPolicies:\n  - references: {branch: main}\n  - references: {tag: /^v1/}\n---\nimage: a\nfrom: scratch\n", nil, nil)
	for _, c := range []struct {
		policy int
		kind   config.RefKind
		name   string
		want   bool
	}{
		{0, config.RefBranch, "main", true},
		{0, config.RefBranch, "main2", false},
		{0, config.RefTag, "main", false},
		{1, config.RefTag, "v1.2", true},
		{1, config.RefTag, "xv1.2", false},
		{1, config.RefBranch, "v1.2", false},
	} {
		if got := p.Cleanup.KeepPolicies[c.policy].Matches(c.kind, c.name); got != c.want {
			t.Errorf("%s matches %s %s: %v", p.Cleanup.KeepPolicies[c.policy], c.kind, c.name, got)
		}
	}
	if l := p.Cleanup.KeepPolicies[0]; l.References.Last != config.Unlimited || l.Images.Last != 1 || l.Line != 4 {
		t.Errorf("policy %+v", l)
	}
}

func TestWrongPoliciesAreToldWithTheirPlace(t *testing.T) {
	for name, c := range map[string]struct{ policy, want string }{
		"a bad regular expression":     {"references: {branch: '/(/'}", "cairn.yaml:4:26: cleanup.keepPolicies[0].references.branch: \"/(/\" is no regular expression: error parsing regexp: missing closing ): `(`"},
		"a pattern without an end":     {"references: {tag: /v}", "cairn.yaml:4:23: cleanup.keepPolicies[0].references.tag: \"/v\" is no regular expression: a / at the end is missing"},
		"an empty name":                {"references: {tag: ''}", "cairn.yaml:4:23: cleanup.keepPolicies[0].references.tag: the name is empty"},
		"a branch and a tag":           {"references: {tag: a, branch: b}", "cairn.yaml:4:18: cleanup.keepPolicies[0].references: \"branch\" and \"tag\" exclude each other"},
		"neither branch nor tag":       {"references: {}", "cairn.yaml:4:17: cleanup.keepPolicies[0].references: want one of the keys \"branch\" and \"tag\""},
		"no references":                {"imagesPerReference: {last: 1}", "cairn.yaml:4:5: cleanup.keepPolicies[0]: the key \"references\" is missing"},
		"nothing kept":                 {"references: {tag: a, limit: {last: 0}}", "cairn.yaml:4:40: cleanup.keepPolicies[0].references.limit.last: 0 references are none at all: want a number from 1 on, or -1 for all, or remove the policy"},
		"a negative number":            {"references: {tag: a, limit: {last: -2}}", "cairn.yaml:4:40: cleanup.keepPolicies[0].references.limit.last: \"-2\": want a number from 1 on, or -1 for all"},
		"an operator without a period": {"references: {tag: a, limit: {last: 2, operator: And}}", "cairn.yaml:4:43: cleanup.keepPolicies[0].references.limit: \"operator\" joins \"last\" and \"in\", and one of them is missing"},
		"an Or that cannot limit":      {"references: {tag: a, limit: {last: -1, in: 2h, operator: Or}}", "cairn.yaml:4:52: cleanup.keepPolicies[0].references.limit: \"last: -1\" does not limit, so with \"Or\" the key \"in\" has no effect"},
		"an unknown operator":          {"references: {tag: a, limit: {last: 1, in: 2h, operator: or}}", "cairn.yaml:4:61: cleanup.keepPolicies[0].references.limit.operator: \"or\" is not allowed here; allowed: \"And\", \"Or\""},
		"a period that is none":        {"references: {tag: a, limit: {in: 7d}}", "cairn.yaml:4:38: cleanup.keepPolicies[0].references.limit.in: \"7d\" is no duration: want a positive one such as 30s or 1m30s"},
		"several builds of a tag":      {"{references: {tag: a}, imagesPerReference: {last: 2}}", "cairn.yaml:4:28: cleanup.keepPolicies[0]: imagesPerReference: a tag names one commit, so only \"last: 1\" makes sense"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, "cairn.yaml", "project: p\ncleanup:\n  keepPolicies:\n  - "+c.policy+"\n---\nimage: a\nfrom: scratch\n", nil, nil)
			if got := problems(t, err); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	_, err := load(t, "cairn.yaml", "project: p\ncleanup: {keepBuiltWithinLastNHours: 100000}\n---\nimage: a\nfrom: scratch\n", nil, nil)
	if got := problems(t, err); !slices.Equal(got, []string{"cairn.yaml:2:38: cleanup.keepBuiltWithinLastNHours: 100000 hours are more than ten years"}) {
		t.Errorf("got %q", got)
	}
	if d := config.DefaultCleanup().KeepBuiltWithin; d != 2*time.Hour {
		t.Errorf("default age %s", d)
	}
}
