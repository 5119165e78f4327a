package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

type exportOptions struct{ to, tag, platform string }

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export [IMAGE]",
		Short: "Take a built image out of the stages storage, to run it",
		Long: `Export writes an image that was built before into the Docker of this host, an
archive or an OCI image layout. IMAGE may be left out where the project has one
image only; ~ is the nameless one. What is there already is not overwritten, but an
image layout may hold several images.`,
		Example: `  # into the Docker of this host
  cairn export backend --to docker

  # as an archive for "docker load" or "podman load", or as an OCI image layout
  cairn export backend --to tar:backend.tar
  cairn export backend --to oci:./backend`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeImages(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.export(cmd, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "`TARGET`: docker, tar:FILE or oci:DIRECTORY")
	f.StringVar(&o.tag, "tag", "", "the image's `NAME:TAG` at the target (default IMAGE:latest, PROJECT:latest for a nameless image)")
	f.StringVar(&o.platform, "platform", "", "the `PLATFORM` to take of an image that has several; without it, oci:DIRECTORY takes all")
	complete(cmd, "to", "docker", "tar:", "oci:")
	return cmd
}

// notBuiltError says that an image is not in the storage.
type notBuiltError struct{ image, storage string }

func (e *notBuiltError) Error() string {
	return fmt.Sprintf("image %s of this commit is not in %s", nameLabel(e.image), e.storage)
}
func (e *notBuiltError) Hint() string {
	return strings.TrimSpace("build it first: cairn build " + e.image)
}

func (a *app) export(cmd *cobra.Command, o exportOptions, args []string) (err error) {
	ctx := cmd.Context()
	write, err := a.exporter(cmd, o)
	if err != nil {
		return err
	}
	if o.tag != "" {
		if _, err := name.NewTag(o.tag, name.WithDefaultRegistry("")); err != nil {
			return usagef(cmd, "--tag %q: want NAME:TAG, for instance shop/backend:1", o.tag)
		}
	}
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	image, err := oneImage(cmd, p.Config, args)
	if err != nil {
		return err
	}
	if o.tag == "" {
		o.tag = cmp.Or(image, p.Config.Name) + ":latest"
	}
	planned, err := p.Plan(ctx, st, []string{image})
	if err != nil {
		return err
	}
	chosen, err := o.platforms(cmd, planned)
	if err != nil {
		return err
	}
	s, err := st.Stages(ctx, p.Config.Name)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, st.Release(context.WithoutCancel(ctx)))
		if full := st.Relieve(ctx); full != nil {
			a.warnf("cannot evict from the local cache: %v", full)
		}
	}()
	images := make([]v1.Image, len(chosen))
	for i, img := range chosen {
		if images[i], err = built(ctx, s, img); err != nil {
			return err
		}
	}
	if err := write(images, o.tag); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Err, "exported %s to %s as %s\n", nameLabel(image), o.to, o.tag)
	return err
}

// nameless is how the image without a name is written, as in the configuration.
const nameless = "~"

// imageName returns the name that an argument means; that of the nameless image is "".
func imageName(arg string) string {
	if arg == nameless {
		return ""
	}
	return arg
}

// oneImage returns the name of the image that the arguments mean.
func oneImage(cmd *cobra.Command, p *config.Project, args []string) (string, error) {
	switch {
	case len(args) == 1:
		return imageName(args[0]), nil
	case len(p.Images) == 1:
		return p.Images[0].Name, nil
	}
	names := make([]string, len(p.Images))
	for i, img := range p.Images {
		names[i] = img.Name
	}
	return "", usagef(cmd, "name one of the project's %s: %s", plural(len(names), "image"), list(names))
}

// built returns a planned image from the storage.
func built(ctx context.Context, s storage.Storage, img *stages.Image) (v1.Image, error) {
	m, err := s.Manifest(ctx, storage.StageTag(img.Final().Digest))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, &notBuiltError{img.Name, s.Address()}
	}
	if err != nil {
		return nil, err
	}
	return transfer.Image(ctx, s, m)
}

// platforms chooses among those of the one planned image. Only a layout takes
// several at once.
func (o exportOptions) platforms(cmd *cobra.Command, p *stages.Plan) ([]*stages.Image, error) {
	if o.platform == "" && (len(p.Images) == 1 || strings.HasPrefix(o.to, layoutTarget)) {
		return p.Images, nil
	}
	var names []string
	for _, img := range p.Images {
		if string(img.Platform) == o.platform {
			return []*stages.Image{img}, nil
		}
		names = append(names, string(img.Platform))
	}
	return nil, usagef(cmd, "--platform %q: the image is built for %s", o.platform, strings.Join(names, ", "))
}

// layoutTarget begins a target that is an OCI image layout.
const layoutTarget = "oci:"

// exporter returns the function that writes images to the target: one, or to a
// layout those of all platforms.
func (a *app) exporter(cmd *cobra.Command, o exportOptions) (func([]v1.Image, string) error, error) {
	kind, path, _ := strings.Cut(o.to, ":")
	switch {
	case o.to == "docker":
		return func(img []v1.Image, ref string) error { return a.loadDocker(cmd.Context(), img[0], ref) }, nil
	case kind == "tar" && path != "":
		return func(img []v1.Image, ref string) error { return transfer.WriteTarFile(path, img[0], ref) }, nil
	case strings.HasPrefix(o.to, layoutTarget) && path != "":
		return func(img []v1.Image, ref string) error { return writeLayout(path, img, ref) }, nil
	default:
		return nil, usagef(cmd, "--to %q: want docker, tar:FILE or oci:DIRECTORY", o.to)
	}
}

func writeLayout(dir string, images []v1.Image, ref string) error {
	if len(images) == 1 {
		return transfer.WriteLayout(dir, images[0], ref)
	}
	index, err := transfer.Index(images...)
	if err != nil {
		return err
	}
	return transfer.WriteLayoutIndex(dir, index, ref)
}

// loadDocker pipes the image into "docker load".
func (a *app) loadDocker(ctx context.Context, img v1.Image, ref string) error {
	r, w := io.Pipe()
	cmd := exec.CommandContext(ctx, "docker", "load")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, a.Err, a.Err
	var g errgroup.Group
	g.Go(func() error { return w.CloseWithError(transfer.WriteTar(w, img, ref)) })
	err := cmd.Run()
	// Where docker ended early, the writer must not wait for a reader.
	_ = r.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		return fmt.Errorf("docker load: %w", err)
	}
	return g.Wait()
}
