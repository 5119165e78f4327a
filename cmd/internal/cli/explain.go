package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/plan"
)

type explainOptions struct{ against string }

func (a *app) explainCommand() *cobra.Command {
	o := explainOptions{}
	cmd := &cobra.Command{
		Use:   "explain IMAGE",
		Short: "Say which input made the stages of an image differ from another commit",
		Long: `Explain plans the image at two commits and names every input that differs: the
text of a command, the path of a file, a base, the platform. Nothing that was
stored is needed for it.`,
		Example: `  cairn explain backend
  cairn explain backend --against main
  cairn explain backend --dev --against HEAD`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeImages(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.explain(cmd.Context(), o, imageName(args[0])) },
	}
	cmd.Flags().StringVar(&o.against, "against", "", "the `COMMIT` to compare with (default: the parent of HEAD, or HEAD with --dev)")
	return cmd
}

type explainReport struct {
	Image   string `json:"image"`
	Against string `json:"against"`
	// New is set where the image is not in the other commit.
	New         bool              `json:"new,omitempty"`
	Differences []plan.Difference `json:"differences"`
}

func (a *app) explain(ctx context.Context, o explainOptions, image string) error {
	against := o.against
	if against == "" {
		against = "HEAD^"
		if a.settings.Dev {
			against = "HEAD"
		}
	}
	now, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	past := a.settings
	past.Dev = false
	then, err := past.OpenAt(ctx, a.host, against)
	if err != nil {
		return fmt.Errorf("commit %s: %w", against, err)
	}
	after, err := now.Plan(ctx, st, []string{image})
	if err != nil {
		return err
	}
	before, known := &stages.Plan{}, false // of an image that was not there yet
	if _, known = then.Config.Image(image); known {
		if before, err = then.Plan(ctx, st, []string{image}); err != nil {
			return fmt.Errorf("commit %s: %w", against, err)
		}
	}
	rep := explainReport{Image: image, Against: against, New: !known, Differences: []plan.Difference{}}
	for _, img := range after.Images {
		old := samePlatform(before, img.Platform)
		diffs, err := plan.Explain(plan.Side{Image: old, Files: then.Tree}, plan.Side{Image: img, Files: now.Tree})
		if err != nil {
			return err
		}
		rep.Differences = append(rep.Differences, diffs...)
	}
	if a.output == formatJSON {
		return writeJSON(a.Out, rep)
	}
	a.showDifferences(rep)
	return nil
}

// samePlatform returns the image of a plan for a platform; without one, an image
// that has no stages.
func samePlatform(p *stages.Plan, platform stages.Platform) *stages.Image {
	for _, img := range p.Images {
		if img.Platform == platform {
			return img
		}
	}
	return &stages.Image{Platform: platform}
}

func (a *app) showDifferences(rep explainReport) {
	image := nameLabel(rep.Image)
	switch {
	case rep.New:
		fmt.Fprintf(a.Out, "%s is new since %s\n", image, rep.Against)
		return
	case len(rep.Differences) == 0:
		fmt.Fprintf(a.Out, "%s is the same as at %s\n", image, rep.Against)
		return
	}
	fmt.Fprintf(a.Out, "%s differs from %s:\n", image, rep.Against)
	var last stages.Kind
	for _, d := range rep.Differences {
		if d.Stage != last {
			fmt.Fprintf(a.Out, "stage %s\n", d.Stage)
			last = d.Stage
		}
		fmt.Fprintf(a.Out, "  %s\n", printable(sentence(d)))
	}
}

// sentence says one difference for people.
func sentence(d plan.Difference) string {
	subject := d.Input
	if d.Subject != "" {
		subject += " " + d.Subject
	}
	switch {
	case d.Input == plan.InputParent:
		return "nothing of its own: the stage below differs"
	case d.Input == plan.InputStage && d.Before == "":
		return "is new"
	case d.Input == plan.InputStage:
		return "is gone"
	case d.Before == "":
		return fmt.Sprintf("%s: added: %s", subject, d.After)
	case d.After == "":
		return fmt.Sprintf("%s: removed: %s", subject, d.Before)
	default:
		return fmt.Sprintf("%s:\n    was %s\n    is  %s", subject, d.Before, d.After)
	}
}
