package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/scaffold"
)

type initOptions struct{ force bool }

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a first cairn.yaml for a repository",
		Long: `Init looks at the project's directory and writes a cairn.yaml. A werf.yaml is
converted, as far as it can be; else each Dockerfile becomes an image; else there is
a commented starter for the language of the project. A file that is there is not
overwritten without --force.`,
		Example: `  cairn init
  cairn init --dir service --output json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.writeFirst(cmd.Context(), o) },
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "overwrite a cairn.yaml that is there")
	return cmd
}

// initReport is what --output json prints.
type initReport struct {
	// File is the path of what was written, empty for nothing.
	File        string                 `json:"file,omitempty"`
	Found       []scaffold.Found       `json:"found"`
	Unconverted []scaffold.Unconverted `json:"unconverted,omitempty"`
}

func (a *app) writeFirst(ctx context.Context, o initOptions) error {
	if st, err := os.Stat(a.settings.Dir); err != nil || !st.IsDir() {
		return &noDirectoryError{a.settings.Dir}
	}
	file := filepath.Join(a.settings.Dir, "cairn.yaml")
	if _, err := os.Lstat(file); err == nil && !o.force {
		return &hintedError{fmt.Errorf("there is a %s already", file), "overwrite it with --force"}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	made, err := look(ctx, a.settings.Dir)
	if err != nil {
		return err
	}
	rep := initReport{Found: made.Found, Unconverted: made.Unconverted}
	if rep.Found == nil {
		rep.Found = []scaffold.Found{}
	}
	if made.Text != "" {
		if _, err := scaffold.Check(ctx, made.Text); err != nil {
			return fmt.Errorf("the configuration that was made cannot be read: %w", err)
		}
		if err := replaceFile(file, []byte(made.Text)); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		rep.File = file
	}
	if a.output == formatJSON {
		return writeJSON(a.Out, rep)
	}
	a.showInit(rep)
	return nil
}

// look makes a configuration of what is in a directory. The repository may be
// anybody's: its symbolic links lead to nothing outside of the directory.
func look(ctx context.Context, dir string) (scaffold.Result, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return scaffold.Result{}, err
	}
	defer root.Close()
	return scaffold.Make(ctx, root.FS(), filepath.Base(dir))
}

func (a *app) showInit(rep initReport) {
	for _, f := range rep.Found {
		what := f.Kind
		if f.Language != "" {
			what = f.Language
		}
		if f.Image != "" {
			fmt.Fprintf(a.Out, "%s (%s): image %s\n", printable(f.Path), what, f.Image)
		} else {
			fmt.Fprintf(a.Out, "%s (%s)\n", printable(f.Path), what)
		}
	}
	for _, u := range rep.Unconverted {
		fmt.Fprintf(a.Out, "not converted: %s:%d: %s", printable(u.File), u.Line, printable(u.Message))
		if u.Hint != "" {
			fmt.Fprintf(a.Out, " (%s)", printable(u.Hint))
		}
		fmt.Fprintln(a.Out)
	}
	if rep.File == "" {
		fmt.Fprintln(a.Out, "\nNothing was written. Cairn reads a werf.yaml as it is: change the lines above there,\nand run \"cairn init\" again to convert it, or \"cairn plan\" to use it.")
		return
	}
	fmt.Fprintf(a.Out, "\nWrote %s. Next:\n  git add cairn.yaml && git commit -m \"Build with Cairn\"\n  cairn lock     # pins the bases; commit cairn.lock\n  cairn plan     # shows the stages\n  cairn build\n", rep.File)
}
