package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

type planOptions struct{ offline bool }

func (a *app) planCommand() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan [IMAGE...]",
		Short: "Show the stages of the images and which of them exist",
		Long: `Plan names every stage of the images, its digest, whether the stages storage has
it, and how it is made: on the engine, or assembled without it. It builds nothing
and writes nothing.`,
		Example: `  cairn plan
  cairn plan backend --stages-storage registry.example.com/shop/stages --output json

  # digests only: no storage is asked
  cairn plan --offline`,
		ValidArgsFunction: a.completeImages(0),
		PreRunE:           func(cmd *cobra.Command, _ []string) error { return a.checkQuick(cmd) },
		RunE:              func(cmd *cobra.Command, args []string) error { return a.plan(cmd.Context(), o, args) },
	}
	a.quickFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.offline, "offline", false, "do not ask the storage which stages exist")
	return cmd
}

// Words for whether a stage exists.
const (
	stateCached  = "cached"
	stateMissing = "missing"
	stateUnknown = "unknown"
)

type planReport struct {
	Project string         `json:"project"`
	Root    stages.Digest  `json:"root"`
	Images  []plannedImage `json:"images"`
	// Needed are what the images are built from besides: other images, and build
	// stages of Dockerfiles.
	Needed []plannedImage `json:"needed,omitempty"`
}

type plannedImage struct {
	Name     string          `json:"name"`
	Platform stages.Platform `json:"platform"`
	Stages   []plannedStage  `json:"stages"`
}

type plannedStage struct {
	Name   string         `json:"name"`
	Digest stages.Digest  `json:"digest"`
	Parent *stages.Digest `json:"parent,omitempty"`
	// State is cached, missing or unknown.
	State string `json:"state"`
	// How is "engine" or "assembled".
	How string `json:"how"`
	// Base is the reference of a from stage.
	Base string `json:"base,omitempty"`
	// Dockerfile is the path of the file that the stage is made of.
	Dockerfile string `json:"dockerfile,omitempty"`
	// Whole says why all of that file is one stage.
	Whole string `json:"whole,omitempty"`
}

func (a *app) plan(ctx context.Context, o planOptions, images []string) error {
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	a.warnConfig(p.Config)
	a.warnDirty(ctx, p, func(text string) { writeString(a.Err, text+"\n") })
	planned, err := p.Plan(ctx, st, images)
	if err != nil {
		return err
	}
	found := map[stages.Digest]bool{}
	if !o.offline {
		s, err := st.Stages(ctx, p.Config.Name)
		if err != nil {
			return err
		}
		if found, err = existing(ctx, s, planned); err != nil {
			return err
		}
	}
	rep, err := describe(planned, found, o.offline)
	if err != nil {
		return err
	}
	a.warnUnpinned(planned)
	a.warnArgs(planned)
	if a.output == formatJSON {
		return writeJSON(a.Out, rep)
	}
	return a.showPlan(rep)
}

// lookups is how many stages are looked up at once.
const lookups = 16

// existing asks the storage for every stage of the plan.
func existing(ctx context.Context, s storage.Resolver, p *stages.Plan) (map[stages.Digest]bool, error) {
	all := map[stages.Digest]*bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookups)
	for _, img := range p.All() {
		for _, stage := range img.Stages {
			if all[stage.Digest] != nil {
				continue
			}
			there := new(bool)
			all[stage.Digest] = there
			g.Go(func() error {
				_, err := s.Resolve(ctx, storage.StageTag(stage.Digest))
				*there = err == nil
				if errors.Is(err, storage.ErrNotFound) {
					return nil
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	found := make(map[stages.Digest]bool, len(all))
	for d, there := range all {
		found[d] = *there
	}
	return found, nil
}

func describe(p *stages.Plan, found map[stages.Digest]bool, offline bool) (*planReport, error) {
	root, err := p.Root()
	if err != nil {
		return nil, err
	}
	rep := &planReport{Project: p.Project, Root: root}
	for _, img := range p.Images {
		rep.Images = append(rep.Images, describeImage(img, found, offline))
	}
	for _, img := range p.Others {
		rep.Needed = append(rep.Needed, describeImage(img, found, offline))
	}
	return rep, nil
}

func describeImage(img *stages.Image, found map[stages.Digest]bool, offline bool) plannedImage {
	out := plannedImage{Name: img.Name, Platform: img.Platform}
	for _, s := range img.Stages {
		ps := plannedStage{Name: s.Name(), Digest: s.Digest, Parent: s.Recipe.Parent, State: stateMissing, How: "assembled"}
		switch {
		case offline:
			ps.State = stateUnknown
		case found[s.Digest]:
			ps.State = stateCached
		}
		if s.NeedsEngine() {
			ps.How = "engine"
		}
		if s.BaseRef != nil {
			ps.Base = s.BaseRef.Name
		}
		if s.Dockerfile != nil {
			ps.Dockerfile, ps.Whole = s.Dockerfile.Path, s.Dockerfile.Whole
		}
		out.Stages = append(out.Stages, ps)
	}
	return out
}

// by says what makes the stage.
func (s plannedStage) by() string {
	switch {
	case s.Whole != "":
		return fmt.Sprintf("%s, all of %s (%s)", s.How, printable(s.Dockerfile), printable(s.Whole))
	case s.Dockerfile != "":
		return fmt.Sprintf("%s, %s", s.How, printable(s.Dockerfile))
	}
	return s.How
}

func (a *app) showPlan(rep *planReport) error {
	w := a.table()
	fmt.Fprintln(w, "IMAGE\tPLATFORM\tSTAGE\tDIGEST\tSTATE\tMADE BY")
	for _, img := range slices.Concat(rep.Images, rep.Needed) {
		for _, s := range img.Stages {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", nameLabel(img.Name), img.Platform, s.Name, s.Digest.Short(), s.State, s.by())
		}
	}
	return w.Flush()
}
