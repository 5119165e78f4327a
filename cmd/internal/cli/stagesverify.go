package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/verify"
)

type verifyOptions struct{ deep, repair bool }

func (a *app) verifyStagesCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Look whether all stages are complete",
		Long: `Verify asks the stages storage for every manifest, config and layer that its names
lead to. With --deep it reads all of them and compares their digests. What is broken
is named with the images that need it, and verify goes on; it fails in the end when
something is, or stays, broken.

With --repair what is missing comes back from the local cache, from :local stages,
from --secondary-storage or from the images' bases. What is nowhere is withdrawn: the
stages that need it, and the builds that list those, lose their names, under entries
of the ledger and beside running builds, and the next build that needs such a stage
makes it anew. A registry that keeps damaged content under its digest takes no other
in its place: run its garbage collector after such a withdrawal.`,
		Example: `  cairn stages verify
  cairn stages verify --deep --repair --output json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verifyStages(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.deep, "deep", false, "read all content and compare its digest")
	f.BoolVar(&o.repair, "repair", false, "bring back what is missing, or withdraw what cannot come back")
	return cmd
}

// What became of a problem.
const (
	outcomeBroken    = "broken"
	outcomeUnknown   = "unknown" // the storage did not answer
	outcomeRepaired  = "repaired"
	outcomeWithdrawn = "withdrawn"
)

// verifyReport is what "cairn stages verify" found, see docs/stages-verify.schema.json.
type verifyReport struct {
	Project   string `json:"project"`
	Storage   string `json:"storage"`
	Deep      bool   `json:"deep"`
	Names     int    `json:"names"`
	Manifests int    `json:"manifests"`
	Blobs     int    `json:"blobs"`
	// Bytes were read and compared; 0 without --deep.
	Bytes    int64           `json:"bytes"`
	Seconds  float64         `json:"seconds"`
	Problems []brokenContent `json:"problems"`
	// Withdrawn are the names that were taken away, or why not.
	Withdrawn []withdrawnName `json:"withdrawn"`
	// Broken counts the problems that are left.
	Broken int `json:"broken"`
}

type brokenContent struct {
	// What is "manifest", "config or layer" or "name".
	What    string        `json:"what"`
	Digest  digest.Digest `json:"digest,omitempty"`
	Bytes   int64         `json:"bytes,omitempty"`
	Error   string        `json:"error"`
	Needed  []neededBy    `json:"neededBy"`
	Outcome string        `json:"outcome"`
	// From is where it came back from, Advice what to do where it did not.
	From   string `json:"from,omitempty"`
	Advice string `json:"advice,omitempty"`

	problem verify.Problem
}

type neededBy struct {
	Tag    string        `json:"tag"`
	Images []listedImage `json:"images"`
}

// errStagesBroken ends a verification after which something is broken.
var errStagesBroken = errors.New("the storage has stages that are not complete")

func (a *app) verifyStages(ctx context.Context, o verifyOptions) error {
	return a.withInventory(ctx, true, func(h held) error {
		began := a.host.Now()
		planned := a.planFor(ctx, h)
		found, err := a.check(ctx, h, o)
		if err != nil {
			return err
		}
		rep := &verifyReport{
			Project: h.project.Config.Name, Storage: h.inventory.Address, Deep: o.deep, Names: len(h.inventory.Names),
			Manifests: found.Manifests, Blobs: found.Blobs, Bytes: found.Bytes, Problems: []brokenContent{}, Withdrawn: []withdrawnName{},
		}
		labels := h.inventory.Labels(planned)
		for _, p := range found.Problems {
			rep.Problems = append(rep.Problems, describeProblem(p, labels))
		}
		if o.repair && len(rep.Problems) > 0 {
			err = a.repair(ctx, h, rep, planned)
		}
		for _, p := range rep.Problems {
			if p.Outcome == outcomeBroken || p.Outcome == outcomeUnknown {
				rep.Broken++
			}
		}
		rep.Seconds = a.host.Now().Sub(began).Seconds()
		return a.endVerification(rep, err)
	})
}

func (a *app) check(ctx context.Context, h held, o verifyOptions) (verify.Result, error) {
	m := a.newMeter()
	defer m.close()
	return verify.Check(ctx, h.storage, h.inventory, verify.Options{Deep: o.deep, Progress: func(p verify.Progress) {
		m.show(func() string {
			if o.deep {
				return "read " + flow(p.Bytes, p.TotalBytes, m.elapsed())
			}
			return fmt.Sprintf("looked at %d of %s", p.Done, plural(p.Total, "manifest or blob"))
		})
	}})
}

func describeProblem(p verify.Problem, labels map[string][]inventory.Label) brokenContent {
	b := brokenContent{
		What: "manifest", Digest: p.Digest, Bytes: p.Size, Error: printable(p.Err.Error()), Needed: []neededBy{},
		Outcome: outcomeUnknown, Advice: "run it again when the storage answers", problem: p,
	}
	switch {
	case p.Blob:
		b.What = "config or layer"
	case p.Digest == "":
		b.What = "name"
	}
	if p.Broken() {
		b.Outcome, b.Advice = outcomeBroken, "run it with --repair on a host that may have it in its cache, or with --secondary-storage; else it is withdrawn and the next build makes it anew"
	}
	for _, tag := range p.Tags {
		b.Needed = append(b.Needed, neededBy{tag, listImages(labels[tag])})
	}
	return b
}

// repair brings back what it can, and withdraws the rest.
func (a *app) repair(ctx context.Context, h held, rep *verifyReport, planned *stages.Plan) error {
	from, err := h.storages.Elsewhere(ctx, rep.Project, planned)
	if err != nil {
		return err
	}
	m := a.newMeter()
	var lost []*brokenContent
	for i := range rep.Problems {
		p := &rep.Problems[i]
		if p.Outcome != outcomeBroken {
			continue
		}
		m.show(func() string { return fmt.Sprintf("repair %d of %s", i+1, plural(len(rep.Problems), "problem")) })
		source, err := verify.Repair(ctx, h.storage, p.problem, from)
		switch {
		case err == nil:
			p.Outcome, p.From, p.Advice = outcomeRepaired, source, ""
		case errors.Is(err, verify.ErrNowhere), errors.Is(err, storage.ErrCorrupt), errors.Is(err, storage.ErrNotFound):
			lost = append(lost, p)
		case ctx.Err() != nil:
			m.close()
			return err
		default: // some source may have it
			p.Outcome, p.Advice = outcomeUnknown, "run it again when this is mended: "+printable(err.Error())
		}
	}
	m.close()
	return a.withdrawLost(ctx, h, rep, lost)
}

// withdrawLost takes their names from all that needs what is lost.
func (a *app) withdrawLost(ctx context.Context, h held, rep *verifyReport, lost []*brokenContent) error {
	var tags []string
	for _, p := range lost {
		tags = append(tags, p.problem.Tags...)
	}
	slices.Sort(tags)
	done, _, err := a.withdraw(ctx, h, slices.Compact(tags), "not complete, and nowhere to be had")
	rep.Withdrawn = append(rep.Withdrawn, done...)
	gone := map[string]bool{}
	for _, w := range done {
		gone[w.Tag] = w.Gone
	}
	for _, p := range lost {
		p.Advice = "it could not be withdrawn: the reason stands with each name; run it again"
		if !slices.ContainsFunc(p.problem.Tags, func(tag string) bool { return !gone[tag] }) {
			p.Outcome, p.Advice = outcomeWithdrawn, "the next build that needs it makes it anew"
			if errors.Is(p.problem.Err, storage.ErrCorrupt) {
				p.Advice += "; run the registry's garbage collector first, else it keeps the damaged content"
			}
		}
	}
	return err
}

func (a *app) endVerification(rep *verifyReport, err error) error {
	if err == nil && rep.Broken > 0 {
		err = errStagesBroken
	}
	if a.output != formatJSON {
		a.showVerification(rep)
		return err
	}
	if werr := writeJSON(a.Out, rep); werr != nil || err == nil {
		return werr
	}
	return &reportedError{err}
}

func (a *app) showVerification(rep *verifyReport) {
	for _, p := range rep.Problems {
		fmt.Fprintf(a.Out, "%s: %s %s", p.Outcome, p.What, p.Digest)
		if p.Bytes > 0 {
			fmt.Fprintf(a.Out, " (%s)", bytesText(p.Bytes))
		}
		fmt.Fprintf(a.Out, "\n  why: %s\n  needed by: %s\n", indented(p.Error, "  "), neededWords(p.Needed))
		if p.From != "" {
			fmt.Fprintf(a.Out, "  from: %s\n", printable(p.From))
		}
		if p.Advice != "" {
			fmt.Fprintf(a.Out, "  what to do: %s\n", p.Advice)
		}
	}
	a.showWithdrawn(rep.Withdrawn)
	read := ""
	if rep.Deep {
		read = ", read " + bytesText(rep.Bytes)
	}
	fmt.Fprintf(a.Out, "%s: %s with %s and %s%s in %s, %s broken\n", rep.Storage, plural(rep.Names, "name"),
		plural(rep.Manifests, "manifest"), plural(rep.Blobs, "blob"), read, seconds(rep.Seconds), count0(rep.Broken))
}

// count0 writes a number, and "nothing" for none.
func count0(n int) string {
	if n == 0 {
		return "nothing"
	}
	return fmt.Sprint(n)
}

// neededWords names the first few of those that need something.
func neededWords(all []neededBy) string {
	if len(all) == 0 {
		return "nothing that has a name"
	}
	var words []string
	for _, n := range all {
		words = append(words, tagWords(n.Tag, n.Images))
	}
	return list(words)
}

// tagWords names a tag as people know it: image/stage and its short digest.
func tagWords(tag string, images []listedImage) string {
	kind := string(inventory.KindOf(tag))
	n := listedName{Kind: inventory.KindOf(tag), Images: images}
	parts := []string{kind, shortTag(tag)}
	if len(images) > 0 {
		parts = append(parts, "("+strings.TrimSuffix(n.imageWords()+"/"+n.stageWords(), "/-")+")")
	}
	return strings.Join(parts, " ")
}
