package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

type rejectOptions struct {
	reason string
	dryRun bool
}

func (a *app) rejectStageCommand() *cobra.Command {
	var o rejectOptions
	cmd := &cobra.Command{
		Use:   "reject DIGEST",
		Short: "Withdraw a bad stage and what was built on it",
		Long: `Reject withdraws a stage whose result is bad although its recipe is not: a download
that was cut short, a mirror that served something else. The stage loses its name,
and so do the stages whose layers begin with its own, what the current commit
imports from them, and the builds that list any of those. It goes beside running
builds, under entries of the ledger, and the next build that needs such a stage makes
it anew; for a while it will not accept the manifest that was withdrawn.

DIGEST is that of the stage as "cairn stages ls" shows it, and may be shortened. A
stage that was published in the last quarter of an hour has an entry in the ledger
still: reject it again when that is over. Layers stay in the registry until it
collects them. Who rejected it and why is noted: as an event in the cluster, or in
the file withdrawn.log of a local ledger.`,
		Example: `  cairn stages reject 3f2a9c81d04e --reason "the mirror served an old index"
  cairn stages reject 3f2a9c81d04e --dry-run --reason try`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(o.reason) == "" {
				return usagef(cmd, "say why with --reason")
			}
			return a.rejectStage(cmd, o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.reason, "reason", "", "`TEXT` that says why, for those who look for it later")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

// withdrawnName is a name that was to be taken away.
type withdrawnName struct {
	Tag    string        `json:"tag"`
	Images []listedImage `json:"images"`
	// Gone says that the storage does not have the name any more; else Why it does.
	Gone bool   `json:"gone"`
	Why  string `json:"why,omitempty"`
}

// rejectReport is what "cairn stages reject" did, see docs/stages-reject.schema.json.
type rejectReport struct {
	Project string          `json:"project"`
	Storage string          `json:"storage"`
	Digest  stages.Digest   `json:"digest"`
	Reason  string          `json:"reason"`
	DryRun  bool            `json:"dryRun"`
	Noted   string          `json:"noted,omitempty"`
	Names   []withdrawnName `json:"names"`
}

// errNotWithdrawn ends a withdrawal that is not complete.
var errNotWithdrawn = errors.New("not everything could be withdrawn")

func (a *app) rejectStage(cmd *cobra.Command, o rejectOptions, name string) error {
	ctx := cmd.Context()
	return a.withInventory(ctx, true, func(h held) error {
		d, err := findStage(cmd, h.inventory, name)
		if err != nil {
			return err
		}
		planned := a.planFor(ctx, h)
		tags := standingOn(h.inventory, d, planned)
		labels := h.inventory.Labels(planned)
		rep := rejectReport{Project: h.project.Config.Name, Storage: h.inventory.Address, Digest: d, Reason: o.reason, DryRun: o.dryRun}
		if o.dryRun {
			for _, tag := range tags {
				rep.Names = append(rep.Names, withdrawnName{Tag: tag, Why: "dry run"})
			}
		} else {
			rep.Names, rep.Noted, err = a.withdraw(ctx, h, tags, o.reason)
		}
		for i := range rep.Names {
			rep.Names[i].Images = listImages(labels[rep.Names[i].Tag])
			if err == nil && !rep.Names[i].Gone && !o.dryRun {
				err = errNotWithdrawn
			}
		}
		return a.endRejection(rep, err)
	})
}

func (a *app) endRejection(rep rejectReport, err error) error {
	if a.output == formatJSON {
		if werr := writeJSON(a.Out, rep); werr != nil || err == nil {
			return werr
		}
		return &reportedError{err}
	}
	if !rep.DryRun {
		a.showWithdrawn(rep.Names)
		if rep.Noted != "" {
			fmt.Fprintf(a.Out, "noted in %s\n", rep.Noted)
		}
		return err
	}
	for _, n := range rep.Names {
		fmt.Fprintf(a.Out, "would withdraw %s\n", tagWords(n.Tag, n.Images))
	}
	return err
}

func (a *app) showWithdrawn(all []withdrawnName) {
	for _, n := range all {
		if n.Gone {
			fmt.Fprintf(a.Out, "withdrawn: %s\n", tagWords(n.Tag, n.Images))
		} else {
			fmt.Fprintf(a.Out, "stays: %s: %s\n", tagWords(n.Tag, n.Images), indented(n.Why, "  "))
		}
	}
}

// findStage returns the stage of the inventory that name means.
func findStage(cmd *cobra.Command, inv *inventory.Inventory, name string) (stages.Digest, error) {
	hex := strings.TrimPrefix(name, "sha256:")
	var match []stages.Digest
	for _, n := range inv.Names {
		if d, ok := n.Stage(); ok && hex != "" && strings.HasPrefix(n.Tag, hex) {
			match = append(match, d)
		}
	}
	if len(match) != 1 {
		return stages.Digest{}, usagef(cmd, "%q names %s in %s", name, plural(len(match), "stage"), inv.Address)
	}
	return match[0], nil
}

// standingOn returns the tags of a stage, of what stands on it by its layers or,
// in the plan, by its recipe, and of the indexes that list any of those.
func standingOn(inv *inventory.Inventory, d stages.Digest, p *stages.Plan) []string {
	bad := map[string]bool{storage.StageTag(d): true}
	byManifest := map[digest.Digest][]string{}
	for _, n := range inv.Names {
		if n.Kind == inventory.KindStage && n.Manifest != nil {
			byManifest[n.Manifest.Digest] = append(byManifest[n.Manifest.Digest], n.Tag)
		}
	}
	for grown := true; grown; {
		before := len(bad)
		for tag := range bad {
			if n, ok := inv.Name(tag); ok && n.Manifest != nil {
				for _, above := range inv.Above(n.Manifest.Digest) {
					for _, t := range byManifest[above] {
						bad[t] = true
					}
				}
			}
		}
		addByRecipe(bad, inv, p)
		grown = len(bad) > before
	}
	var out []string
	for _, n := range inv.Names {
		if bad[n.Tag] || lists(n, bad) {
			out = append(out, n.Tag)
		}
	}
	return out
}

// addByRecipe adds the plan's stages that need one of bad, of those that are there.
func addByRecipe(bad map[string]bool, inv *inventory.Inventory, p *stages.Plan) {
	if p == nil {
		return
	}
	for _, img := range p.All() {
		for _, s := range img.Stages {
			tag := storage.StageTag(s.Digest)
			_, there := inv.Name(tag)
			if there && slices.ContainsFunc(s.Needs(), func(n *stages.Stage) bool { return bad[storage.StageTag(n.Digest)] }) {
				bad[tag] = true
			}
		}
	}
}

// lists reports whether a name is an index with one of the bad stages in it.
func lists(n inventory.Name, bad map[string]bool) bool {
	if n.Manifest == nil {
		return false
	}
	return slices.ContainsFunc(n.Manifest.Members, func(m inventory.Member) bool {
		return !m.Stage.IsZero() && bad[storage.StageTag(m.Stage)]
	})
}

// withdraw takes names from the storage. What has no manifest by now is gone already.
func (a *app) withdraw(ctx context.Context, h held, tags []string, reason string) (done []withdrawnName, noted string, err error) {
	plan, done, err := planWithdrawal(ctx, h, tags)
	if err != nil || len(plan.Remove) == 0 {
		return done, "", err
	}
	noted, err = a.settings.Withdraw(ctx, a.host, h.storages, wire.Withdrawal{
		Project: h.project.Config.Name, From: h.storage, Plan: plan, Reason: reason,
		Done:    func(r sweep.Result) { done = append(done, withdrawnBy(r)) },
		Waiting: a.tellHolder,
	})
	slices.SortFunc(done, func(x, y withdrawnName) int { return cmp.Compare(x.Tag, y.Tag) })
	return done, noted, err
}

// tellHolder says which runner is waited for.
func (a *app) tellHolder(w synchronization.Holder) {
	fmt.Fprintf(a.Err, "waiting for stage %s, which %s has in hand\n", w.Digest.Short(), oneLine(cmp.Or(w.Name, w.Session)))
}

func withdrawnBy(r sweep.Result) withdrawnName {
	w := withdrawnName{Tag: r.Name.Tag(), Images: []listedImage{}, Gone: r.Fate == sweep.Removed || r.Fate == sweep.Gone, Why: printable(r.Why)}
	if r.Err != nil {
		w.Why = printable(r.Err.Error())
	}
	return w
}

// planWithdrawal says what is to be removed. What shows another manifest by now is left
// out: the verdict was about the one in the inventory. To the plan it is new, so what it
// stands on stays.
func planWithdrawal(ctx context.Context, h held, tags []string) (sweep.Plan, []withdrawnName, error) {
	known := make(map[string]bool, len(h.inventory.Names))
	for _, n := range h.inventory.Names {
		known[n.Tag] = true
	}
	plan := sweep.Plan{Known: func(tag string) bool { return known[tag] }}
	var done []withdrawnName
	byManifest := map[digest.Digest]stages.Digest{}
	for _, tag := range tags {
		if n, ok := h.inventory.Name(tag); ok && n.Manifest != nil {
			if d, ok := n.Stage(); ok {
				byManifest[n.Manifest.Digest] = d
			}
		}
	}
	below := h.inventory.Below()
	for _, tag := range tags {
		desc, err := h.storage.Resolve(ctx, tag)
		if errors.Is(err, storage.ErrNotFound) {
			done = append(done, withdrawnName{Tag: tag, Images: []listedImage{}, Gone: true})
			continue
		}
		if err != nil {
			return plan, done, err
		}
		n, _ := h.inventory.Name(tag)
		if n.Manifest != nil && n.Manifest.Digest != desc.Digest {
			delete(known, tag)
			done = append(done, withdrawnName{Tag: tag, Images: []listedImage{}, Why: "it was published anew"})
			continue
		}
		if out, ok := toRemove(n, desc.Digest, below, byManifest); ok {
			plan.Remove = append(plan.Remove, out)
		}
	}
	return plan, done, nil
}

// toRemove describes a name as package sweep wants it; false for other kinds.
func toRemove(n inventory.Name, shows digest.Digest, below map[digest.Digest]digest.Digest, stageOf map[digest.Digest]stages.Digest) (sweep.Name, bool) {
	out := sweep.Name{Kind: sweep.Stage, Manifest: shows}
	switch n.Kind {
	case inventory.KindStage:
		out.Digest, _ = n.Stage()
	case inventory.KindBuild, inventory.KindPlatforms:
		d, err := stages.ParseDigest(n.Tag[strings.LastIndexByte(n.Tag, '-')+1:])
		if err != nil {
			return out, false
		}
		out.Kind, out.Digest = sweep.Index, d
	default:
		return out, false
	}
	if n.Manifest == nil {
		return out, true
	}
	for _, m := range n.Manifest.Members {
		if !m.Stage.IsZero() {
			out.On = append(out.On, m.Stage)
		}
	}
	if d, ok := stageOf[below[n.Manifest.Digest]]; ok {
		out.On = append(out.On, d)
	}
	for _, l := range n.Manifest.Layers {
		out.Layers = append(out.Layers, l.Digest)
	}
	return out, true
}
