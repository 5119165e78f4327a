package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/policy"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

func now() time.Time { return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) }

// fake is a repository and its plans: commit "c1" builds stage "c1".
type fake struct {
	histories map[string]string // commits by their tip
	planned   []string
	fail      error
}

func (f *fake) History(_ context.Context, commit string) (policy.History, error) {
	words, cut := strings.CutSuffix(f.histories[commit], " …")
	if words == "" {
		return policy.History{}, errors.New("an object is missing")
	}
	h := policy.History{Cut: cut}
	for i, id := range strings.Fields(words) {
		h.Commits = append(h.Commits, policy.Commit{ID: id, At: now().Add(-time.Duration(i) * time.Hour)})
	}
	return h, nil
}

func (f *fake) Plan(_ context.Context, commit string) (cleanup.Commit, error) {
	f.planned = append(f.planned, commit)
	if strings.HasPrefix(commit, "bare") {
		return cleanup.Commit{Bare: true}, f.fail
	}
	if strings.HasPrefix(commit, "bad") {
		return cleanup.Commit{Unplanned: []cleanup.Unplanned{{Any: true, Why: "no base is pinned"}}}, f.fail
	}
	return cleanup.Commit{Images: []cleanup.Image{{Name: "web", Stages: []stages.Digest{stages.DigestOf([]byte(commit))}}}}, f.fail
}

// built is an inventory with the indexes of some commits.
func built(commits string) *inventory.Inventory {
	inv := &inventory.Inventory{Manifests: map[digest.Digest]*inventory.Manifest{}}
	for c := range strings.FieldsSeq(commits) {
		d := stages.DigestOf([]byte(c))
		m := &inventory.Manifest{Digest: digest.FromString(c), Index: true, Members: []inventory.Member{{Image: "web", Stage: d}}}
		inv.Names = append(inv.Names, inventory.Name{Tag: storage.BuildTag(d), Kind: inventory.KindBuild, Manifest: m})
	}
	return inv
}

func branches(names ...string) []policy.Reference {
	var out []policy.Reference
	for _, n := range names {
		out = append(out, policy.Reference{Kind: config.RefBranch, Name: n, Commit: n + "0", At: now()})
	}
	return out
}

func TestCommitsOfReferencesAreFound(t *testing.T) {
	two := []config.KeepPolicy{{Kind: config.RefBranch, Name: "main", References: config.Limit{Last: -1}, Images: config.Limit{Last: 2}},
		{Kind: config.RefBranch, Name: "old", References: config.Limit{Last: -1}, Images: config.Limit{Last: 2}},
		{Kind: config.RefTag, Name: "v1", References: config.Limit{Last: -1}}}
	for name, c := range map[string]struct {
		refs      []policy.Reference
		histories map[string]string
		built     string
		want      string
	}{
		"the tip and the builds":     {branches("main"), map[string]string{"main0": "main0 a b c"}, "a b c", "main0: tip of branch main; a: build 1 of branch main; b: build 2 of branch main"},
		"a commit of two references": {append(branches("main"), policy.Reference{Kind: config.RefTag, Name: "v1", Commit: "main0"}), map[string]string{"main0": "main0"}, "main0", "main0: tip of branch main, tag v1"},
		"a history that is cut":      {branches("main"), map[string]string{"main0": "main0 a …"}, "a", "main0: tip of branch main; a: build 1 of branch main; open the history of branch main is cut: the clone is shallow"},
		"a history that is broken":   {branches("main"), nil, "", "main0: tip of branch main; open the history of branch main: an object is missing"},
		"what cannot be planned takes no build's place": {branches("main"), map[string]string{"main0": "main0 bad1 bad2 a b c"}, "main0 a b c",
			"main0: tip of branch main; bad1: a commit of branch main; bad2: a commit of branch main; a: build 2 of branch main"},
		"no reference":          {nil, nil, "a", ""},
		"one that nobody keeps": {branches("other"), nil, "a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{histories: c.histories}
			r, err := Find(t.Context(), Input{Policies: two, References: c.refs, Histories: f, Planner: f, Inventory: built(c.built), Now: now()})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, k := range r.Commits {
				got = append(got, fmt.Sprintf("%s: %s", k.ID, k.Why))
			}
			for _, o := range r.Open {
				got = append(got, "open "+o)
			}
			if strings.Join(got, "; ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), c.want)
			}
		})
	}
}

func TestEachCommitIsPlannedOnce(t *testing.T) {
	f := &fake{histories: map[string]string{"main0": "main0 a b", "old0": "old0 a b"}}
	r, err := Find(t.Context(), Input{Policies: config.DefaultCleanup().KeepPolicies, References: branches("main", "old"), Histories: f, Planner: f, Inventory: built("main0 a"), Now: now()})
	if err != nil || len(f.planned) != 4 || len(r.Commits) != 3 || r.References != 2 {
		t.Errorf("planned %v, kept %v (%v)", f.planned, r.Commits, err)
	}
	f.fail = context.Canceled
	if _, err := Find(t.Context(), Input{Policies: config.DefaultCleanup().KeepPolicies, References: branches("main"), Histories: f, Planner: f, Inventory: built(""), Now: now()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a failure gives %v", err)
	}
}

func TestReferencesWithoutAConfigurationAreNamed(t *testing.T) {
	f := &fake{histories: map[string]string{"bare0": "bare0 a", "main0": "main0 bare1"}}
	r, err := Find(t.Context(), Input{Policies: config.DefaultCleanup().KeepPolicies, References: branches("bare", "main"), Histories: f, Planner: f, Inventory: built("main0 a"), Now: now()})
	if err != nil || strings.Join(r.Bare, " ") != "branch bare" {
		t.Errorf("named %q (%v)", r.Bare, err)
	}
}
