package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
)

// cleanupReport is a cleanup as it is shown, see docs/cleanup.schema.json; sizes are
// bytes.
type cleanupReport struct {
	Project string `json:"project"`
	Storage string `json:"storage"`
	// Unverified is the kind of registry where nobody has told yet that deletions work.
	Unverified string `json:"unverified,omitempty"`
	DryRun     bool   `json:"dryRun"`
	// References counts those that are kept for git's sake, Commits are what they keep.
	References int             `json:"references"`
	Commits    []cleanupCommit `json:"commits"`
	// Bare are the kept references whose commit has no configuration: they keep nothing.
	Bare []string `json:"withoutConfiguration,omitempty"`
	// Open are the reasons for which builds that nobody knows are kept.
	Open []string `json:"open"`
	// Clusters were looked into; WithoutKube says by whose choice none was.
	Clusters    []string        `json:"clusters"`
	WithoutKube string          `json:"withoutKube,omitempty"`
	Unread      []cleanupUnread `json:"unread"`
	// Foreign are the tags that Cairn has not made.
	Foreign []string `json:"foreign"`
	// Missing are mentioned and not in the storage.
	Missing  []cleanupMissing  `json:"missing"`
	Totals   []cleanup.Total   `json:"totals"`
	Verdicts []cleanup.Verdict `json:"verdicts"`
	// Freed is what the storage's own garbage collector gains when all that goes is gone.
	Freed   int64           `json:"freed"`
	Removed *cleanupOutcome `json:"removed,omitempty"`
	Failed  []string        `json:"failed,omitempty"`
	Error   *failure        `json:"error,omitempty"`
}

type cleanupCommit struct {
	Commit    string   `json:"commit"`
	Why       string   `json:"why"`
	Unplanned []string `json:"unplanned,omitempty"`
}

type cleanupUnread struct {
	Cluster string `json:"cluster"`
	// Verb and Resource are what was asked for; no resource means the cluster itself.
	Verb     string `json:"verb"`
	Resource string `json:"resource,omitempty"`
	Denied   bool   `json:"denied"`
	Message  string `json:"message"`
}

type cleanupMissing struct {
	Image string `json:"image"`
	Where string `json:"where"`
}

// cleanupOutcome counts what became of what was to go.
type cleanupOutcome struct {
	Removed     int     `json:"removed"`
	Gone        int     `json:"gone"`
	Waits       int     `json:"waits"`
	Needed      int     `json:"needed"`
	Failed      int     `json:"failed"`
	LeftSeconds float64 `json:"leftSeconds"`
}

func removedOf(o sweep.Outcome) *cleanupOutcome {
	return &cleanupOutcome{o.Removed, o.Gone, o.Waits, o.Needed, o.Failed, o.Left.Seconds()}
}

func reportCleanup(project string, c *wire.Cleanup, dryRun bool) cleanupReport {
	r := cleanupReport{
		Project: project, Storage: c.Storage, Unverified: c.Unverified, DryRun: dryRun, References: c.References, Bare: c.Bare, Commits: []cleanupCommit{},
		Open: append([]string{}, c.Open...), Clusters: append([]string{}, c.Clusters...), WithoutKube: c.WithoutKube, Unread: []cleanupUnread{},
		Foreign: append([]string{}, c.Foreign...), Missing: []cleanupMissing{}, Totals: c.Totals, Verdicts: c.Verdicts, Freed: c.Freed,
	}
	for _, commit := range c.Commits {
		one := cleanupCommit{Commit: commit.ID, Why: commit.Why}
		for _, u := range commit.Unplanned {
			one.Unplanned = append(one.Unplanned, u.Why)
		}
		r.Commits = append(r.Commits, one)
	}
	for _, u := range c.Unread {
		r.Unread = append(r.Unread, cleanupUnread{u.Cluster, "list", u.Resource, u.Denied(), u.Error()})
	}
	for _, m := range c.Missing {
		image := m.Tag
		if image == "" {
			image = m.Digest.String()
		}
		r.Missing = append(r.Missing, cleanupMissing{image, m.Where})
	}
	return r
}

// codeWords say the codes of reasons for people.
func codeWords(c cleanup.Code) string {
	words := map[cleanup.Code]string{
		cleanup.Marker: "the marker of the project", cleanup.Foreign: "not made by Cairn", cleanup.InUse: "in use in a cluster",
		cleanup.KeepList: "named by the keep list", cleanup.Tagged: "named by a tag that Cairn has not made",
		cleanup.Planned: "of a kept commit", cleanup.Member: "listed by a kept index", cleanup.Parent: "below a kept stage",
		cleanup.InFlight: "in flight", cleanup.Young: "not known to be old enough", cleanup.Unplannable: "perhaps of a commit that cannot be planned",
		cleanup.Unread: "perhaps in use in a cluster that cannot be read", cleanup.Broken: "unreadable",
		cleanup.Unreferenced: "index that nothing needs", cleanup.DeadBuilds: "stage of such indexes alone", cleanup.NoBuild: "stage of no build",
	}
	return words[c]
}

// failed is what a report tells of the error that it ends with; nil for none.
func failed(err error) *failure {
	if err == nil {
		return nil
	}
	code, hint := classify(err)
	return &failure{Message: printable(err.Error()), Hint: printable(hint), Exit: code}
}

// showCleanup writes the report, with the error that it ends with.
func (a *app) showCleanup(r cleanupReport, err error) error {
	if a.output == formatJSON {
		r.Error = failed(err)
		return writeJSON(a.Out, r)
	}
	if r.DryRun {
		if err := a.showGoing(r); err != nil {
			return err
		}
	}
	return a.showTotals(r)
}

// showGoing lists what would go.
func (a *app) showGoing(r cleanupReport) error {
	w := a.table()
	for _, v := range r.Verdicts {
		if !v.Keep {
			fmt.Fprintf(w, "remove %s\t%s\t%s\t%s\n", v.Kind, v.Tag, bytesText(v.Bytes), printable(v.Reasons[0].Text))
		}
	}
	return w.Flush()
}

func (a *app) showTotals(r cleanupReport) error {
	fmt.Fprintf(a.Out, "%s: %s, %s of %s kept for git's sake, %s\n", r.Storage, plural(len(r.Verdicts), "tag"),
		plural(len(r.Commits), "commit"), plural(r.References, "reference"), clustersWords(r))
	w := a.table()
	goes := 0
	for _, t := range r.Totals {
		verb := "keep"
		if !t.Keep {
			verb, goes = "remove", goes+t.Tags
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", verb, plural(t.Tags, "tag"), bytesText(t.Bytes), codeWords(t.Code))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Unverified != "" {
		fmt.Fprintf(a.Out, "  unverified: deletions in %s follow its documents and were tried by nobody yet; \"cairn storage check\" tells\n", r.Unverified)
	}
	a.showNames("without a configuration, so nothing is kept for them", r.Bare)
	a.showNames("not made by Cairn and not touched", r.Foreign)
	var missing []string
	for _, m := range r.Missing {
		missing = append(missing, m.Image+" of "+m.Where)
	}
	a.showNames("mentioned and not in the storage", missing)
	if r.Removed == nil {
		verb := "would remove"
		if !r.DryRun {
			verb = "removed"
			goes = 0
		}
		_, err := fmt.Fprintf(a.Out, "%s %s, which frees %s when the storage collects its garbage\n", verb, plural(goes, "tag"), bytesText(r.Freed))
		return err
	}
	_, err := fmt.Fprintf(a.Out, "removed %s; %d were gone, %d wait for their grace%s, %d are needed after all, %d failed\n",
		plural(r.Removed.Removed, "tag"), r.Removed.Gone, r.Removed.Waits, leftWords(r.Removed), r.Removed.Needed, r.Removed.Failed)
	return err
}

func leftWords(o *cleanupOutcome) string {
	if o.Waits == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s at most)", (time.Duration(o.LeftSeconds) * time.Second).Round(time.Minute))
}

func clustersWords(r cleanupReport) string {
	if r.WithoutKube != "" {
		return "no cluster asked (" + r.WithoutKube + ")"
	}
	return plural(len(r.Clusters), "cluster") + " asked"
}

// showNames writes a line with the first of some names.
func (a *app) showNames(what string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(a.Out, "  %s:", what)
	for i, n := range names {
		if i == maxListed {
			fmt.Fprintf(a.Out, " … and %d more", len(names)-maxListed)
			break
		}
		sep := ","
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(a.Out, "%s %s", sep, printable(n))
	}
	fmt.Fprintln(a.Out)
}

// stepEvery is how often a step that goes on is told of.
const stepEvery = 5 * time.Second

// steps tells on standard error what a long command is doing.
type steps struct {
	w    io.Writer
	now  func() time.Time
	what string
	told time.Time
}

func newSteps(w io.Writer, now func() time.Time) *steps { return &steps{w: w, now: now} }

// tell says that a step begins, and now and then how far it is.
func (s *steps) tell(what string, done, total int) {
	now := s.now()
	if what == s.what && (now.Sub(s.told) < stepEvery || total == 0) {
		return
	}
	s.what, s.told = what, now
	if total > 0 && done > 0 {
		what = fmt.Sprintf("%s: %d of %d", what, done, total)
	}
	s.note(what)
}

func (s *steps) note(text string) { fmt.Fprintf(s.w, "%s\n", printable(text)) }
