package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/storage/inventory"
)

type listStagesOptions struct {
	images, stages, kinds []string
	olderThan             time.Duration
	current, broken       bool
	sort                  string
}

func (a *app) listStagesCommand() *cobra.Command {
	var o listStagesOptions
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the stages and builds in the storage",
		Long: `Ls lists what the stages storage holds: stages, indexes of builds and of images for
several platforms, the project's marker, and tags that are not Cairn's. The first
time it reads every manifest; what it has read it keeps in the cache directory, so
that the next time it lists the tags and reads what is new.

SIZE is all that a stage needs, OWN what nothing else in the storage needs: that is
what its removal can free. Image and stage are known for the current commit; of
earlier ones the image is known by the builds and what they stand on. AGE is what
the registry says, or else, after "≥", the time since this host first saw the stage.
USED is when it was last used; only :local stages know that.`,
		Example: `  cairn stages ls
  cairn stages ls --image backend --sort own
  cairn stages ls --older-than 720h --output json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.listStages(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.images, "image", nil, "`NAME` of an image, to leave others out; may be given several times (~ is the nameless one)")
	f.StringSliceVar(&o.stages, "stage", nil, "`NAME` of a stage, such as install, to leave others out; may be given several times")
	f.StringSliceVar(&o.kinds, "kind", nil, "`KIND` of names to list: stage, build, platforms, marker or foreign; may be given several times")
	f.DurationVar(&o.olderThan, "older-than", 0, "leave out what is younger than `DURATION`, or of unknown age")
	f.BoolVar(&o.current, "current", false, "list only what the current commit needs")
	f.BoolVar(&o.broken, "broken", false, "list only what cannot be read")
	f.StringVar(&o.sort, "sort", "image", "`ORDER` of the list: image, tag, size, own, age or used")
	kinds := make([]string, 0, len(inventory.Kinds()))
	for _, k := range inventory.Kinds() {
		kinds = append(kinds, string(k))
	}
	complete(cmd, "kind", kinds...)
	complete(cmd, "sort", sortOrders()...)
	return cmd
}

func sortOrders() []string { return []string{"image", "tag", "size", "own", "age", "used"} }

func (o *listStagesOptions) check(cmd *cobra.Command) error {
	for _, k := range o.kinds {
		if !slices.Contains(inventory.Kinds(), inventory.Kind(k)) {
			return usagef(cmd, "--kind %s: want stage, build, platforms, marker or foreign", k)
		}
	}
	if !slices.Contains(sortOrders(), o.sort) {
		return usagef(cmd, "--sort %s: want one of %s", o.sort, strings.Join(sortOrders(), ", "))
	}
	if o.olderThan < 0 {
		return usagef(cmd, "--older-than %v: want a duration that is not negative", o.olderThan)
	}
	return nil
}

// stagesReport is what "cairn stages ls" lists, see docs/stages-ls.schema.json.
type stagesReport struct {
	Project string       `json:"project"`
	Storage string       `json:"storage"`
	Names   []listedName `json:"names"`
	// Listed is what the names take together, Total what all of the storage takes.
	Listed listedSizes `json:"listed"`
	Total  listedSizes `json:"total"`
	// Foreign are the tags that are not Cairn's.
	Foreign []string `json:"foreign"`
}

type listedSizes struct {
	Names int   `json:"names"`
	Bytes int64 `json:"bytes"`
	// Own is what nothing else in the storage needs.
	Own int64 `json:"ownBytes"`
}

type listedName struct {
	Tag      string         `json:"tag"`
	Kind     inventory.Kind `json:"kind"`
	Manifest digest.Digest  `json:"manifest,omitempty"`
	Images   []listedImage  `json:"images"`
	Bytes    int64          `json:"bytes"`
	Own      int64          `json:"ownBytes"`
	// Below is the manifest that it stands on, Members those of an index.
	Below   digest.Digest   `json:"below,omitempty"`
	Members []digest.Digest `json:"members,omitempty"`
	// Modified is what the registry says, Seen when this host first saw it.
	Modified time.Time `json:"modified,omitzero"`
	Seen     time.Time `json:"seen,omitzero"`
	Used     time.Time `json:"used,omitzero"`
	Broken   string    `json:"broken,omitempty"`

	since time.Time
}

type listedImage struct {
	Name     string `json:"name"`
	Stage    string `json:"stage,omitempty"`
	Platform string `json:"platform,omitempty"`
	Final    bool   `json:"final"`
	Current  bool   `json:"current"`
}

func (a *app) listStages(ctx context.Context, o listStagesOptions) error {
	return a.withInventory(ctx, false, func(h held) error {
		rep := reportStages(h.inventory, h.inventory.Labels(a.planFor(ctx, h)), o, a.host.Now())
		rep.Project = h.project.Config.Name
		if a.output == formatJSON {
			return writeJSON(a.Out, rep)
		}
		return a.showStages(rep)
	})
}

// reportStages lists what the options ask for.
func reportStages(inv *inventory.Inventory, labels map[string][]inventory.Label, o listStagesOptions, now time.Time) *stagesReport {
	rep := &stagesReport{Storage: inv.Address, Names: []listedName{}, Foreign: []string{}}
	below := inv.Below()
	var listed, all []digest.Digest
	for _, n := range inv.Names {
		if n.Kind == inventory.KindForeign {
			rep.Foreign = append(rep.Foreign, n.Tag)
		} else {
			rep.Total.Names++
		}
		if o.wants(n, labels[n.Tag], now) {
			l := listName(inv, n, labels[n.Tag])
			l.Below = below[l.Manifest]
			rep.Names = append(rep.Names, l)
			listed = append(listed, l.Manifest)
		}
	}
	for d := range inv.Manifests {
		all = append(all, d)
	}
	rep.Listed = listedSizes{len(rep.Names), inv.Sizes(listed...).Total, inv.Sizes(listed...).Own}
	rep.Total.Bytes, rep.Total.Own = inv.Sizes(all...).Total, inv.Sizes(all...).Own
	o.order(rep.Names)
	return rep
}

// wants reports whether a name is to be listed.
func (o *listStagesOptions) wants(n inventory.Name, labels []inventory.Label, now time.Time) bool {
	is := func(want func(inventory.Label) bool) bool { return slices.ContainsFunc(labels, want) }
	switch {
	case len(o.kinds) > 0 && !slices.Contains(o.kinds, string(n.Kind)):
		return false
	case len(o.kinds) == 0 && n.Kind == inventory.KindForeign:
		return false // they are named below the list
	case o.broken && n.Broken == nil:
		return false
	case o.current && !is(func(l inventory.Label) bool { return l.Current }):
		return false
	case o.olderThan > 0 && (n.Since().IsZero() || now.Sub(n.Since()) < o.olderThan):
		return false
	case len(o.images) > 0 && !is(func(l inventory.Label) bool { return slices.Contains(o.images, cmp.Or(l.Image, nameless)) }):
		return false
	}
	return len(o.stages) == 0 || is(func(l inventory.Label) bool { return slices.Contains(o.stages, l.Stage) })
}

func listName(inv *inventory.Inventory, n inventory.Name, labels []inventory.Label) listedName {
	l := listedName{Tag: n.Tag, Kind: n.Kind, Images: listImages(labels), Modified: n.Modified, Seen: n.Seen, Used: n.Used, since: n.Since()}
	if n.Broken != nil {
		l.Broken = printable(n.Broken.Error())
	}
	if n.Manifest == nil {
		return l
	}
	l.Manifest = n.Manifest.Digest
	size := inv.Sizes(l.Manifest)
	l.Bytes, l.Own = size.Total, size.Own
	for _, m := range n.Manifest.Members {
		l.Members = append(l.Members, m.Digest)
	}
	return l
}

// listImages shows labels; none as an empty list.
func listImages(labels []inventory.Label) []listedImage {
	out := make([]listedImage, len(labels))
	for i, l := range labels {
		out[i] = listedImage{l.Image, l.Stage, l.Platform, l.Final, l.Current}
	}
	return out
}

// order sorts the list; the largest, oldest and longest unused come first.
func (o *listStagesOptions) order(all []listedName) {
	slices.SortStableFunc(all, func(x, y listedName) int {
		var by int
		switch o.sort {
		case "size":
			by = cmp.Compare(y.Bytes, x.Bytes)
		case "own":
			by = cmp.Compare(y.Own, x.Own)
		case "age":
			by = x.since.Compare(y.since)
		case "used":
			by = x.Used.Compare(y.Used)
		case "image":
			by = cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.imageWords(), y.imageWords()), cmp.Compare(x.Bytes, y.Bytes))
		}
		return cmp.Or(by, cmp.Compare(x.Tag, y.Tag))
	})
}

// rank puts indexes and nameless things after the stages of images.
func rank(n listedName) int {
	r := 2 * slices.Index(inventory.Kinds(), n.Kind)
	if len(n.Images) == 0 {
		r++
	}
	return r
}

// imageWords names the images that have the stage.
func (n listedName) imageWords() string {
	var names []string
	for _, img := range n.Images {
		if name := oneLine(nameLabel(img.Name)); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return firstOf(names)
}

func (n listedName) stageWords() string {
	var names []string
	for _, img := range n.Images {
		name := img.Stage
		if name == "" && img.Final && n.Kind == inventory.KindStage {
			name = "(final)"
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return firstOf(names)
}

// firstOf names the first, and how many more there are.
func firstOf(names []string) string {
	switch len(names) {
	case 0:
		return "-"
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%s +%d", names[0], len(names)-1)
}

func (a *app) showStages(rep *stagesReport) error {
	now := a.host.Now()
	g := grid{columns: []column{
		{head: "KIND", least: 3}, {head: "IMAGE", flexible: true}, {head: "STAGE", flexible: true}, {head: "DIGEST"},
		{head: "SIZE", right: true}, {head: "OWN", right: true, least: 4}, {head: "AGE", right: true, least: 2}, {head: "USED", right: true, least: 1, sparse: true},
		{head: "STATE", flexible: true, sparse: true},
	}}
	for _, n := range rep.Names {
		state := ""
		if n.Broken != "" {
			state = "broken"
		} else if slices.ContainsFunc(n.Images, func(i listedImage) bool { return i.Current }) {
			state = "current"
		}
		g.add(string(n.Kind), n.imageWords(), n.stageWords(), shortTag(n.Tag), bytesText(n.Bytes), bytesText(n.Own),
			n.ageWords(now), agoWords(n.Used, now), state)
	}
	if len(rep.Names) > 0 {
		if err := g.write(a.Out, a.outputWidth()); err != nil {
			return err
		}
		fmt.Fprintln(a.Out)
	}
	if rep.Listed.Names == rep.Total.Names {
		fmt.Fprintf(a.Out, "%s in %s: %s\n", plural(rep.Total.Names, "name"), rep.Storage, bytesText(rep.Total.Bytes))
	} else {
		fmt.Fprintf(a.Out, "%d of %s in %s: %s of %s, %s of it in nothing else\n", rep.Listed.Names, plural(rep.Total.Names, "name"),
			rep.Storage, bytesText(rep.Listed.Bytes), bytesText(rep.Total.Bytes), bytesText(rep.Listed.Own))
	}
	for _, n := range rep.Names {
		if n.Broken != "" {
			fmt.Fprintf(a.Out, "broken: %s: %s\n", n.Tag, indented(n.Broken, "  "))
		}
	}
	if len(rep.Foreign) > 0 {
		fmt.Fprintf(a.Out, "not Cairn's: %s: %s\n", plural(len(rep.Foreign), "tag"), list(rep.Foreign))
	}
	return nil
}

// shortTag is the beginning of the digest in a tag of Cairn's, and else the tag.
func shortTag(tag string) string {
	switch inventory.KindOf(tag) {
	case inventory.KindStage:
		return shortDigest(tag)
	case inventory.KindBuild:
		return shortDigest(tag[strings.LastIndexByte(tag, '-')+1:])
	default:
		return tag
	}
}

// ageWords says how old a name is: exactly where the registry knows.
func (n listedName) ageWords(now time.Time) string {
	if n.since.IsZero() || n.since.Equal(n.Modified) {
		return agoWords(n.since, now)
	}
	return "≥" + agoWords(n.since, now)
}

// agoWords writes the time since t in its largest unit.
func agoWords(t, now time.Time) string {
	const day = 24 * time.Hour
	d := max(0, now.Sub(t))
	switch {
	case t.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", d/day)
	}
}
