package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages/plan"
)

type lockOptions struct {
	update  bool
	refresh string
}

func (a *app) lockCommand() *cobra.Command {
	var o lockOptions
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Pin the bases and other repositories of the project in cairn.lock",
		Long: `Lock writes the manifest digest of every base, and the commit of every other
repository that a git mapping names, into cairn.lock, beside cairn.yaml. Commit
it: a build with a full cairn.lock asks nobody what a name means today. Entries
that are there stay as they are unless --update is given. Those that the project
no longer names are dropped.`,
		Example: `  cairn lock
  cairn lock --update
  # have the commands of an image run again, for fresh packages
  cairn lock --refresh backend`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.lock(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.update, "update", false, "resolve anew what is pinned already")
	f.StringVar(&o.refresh, "refresh", "", "give `IMAGE` a new salt, or all with the word \"all\": its commands run again")
	// The images are completed as the arguments of other commands are.
	_ = cmd.RegisterFlagCompletionFunc("refresh", a.completeImages(0))
	return cmd
}

func (a *app) lock(ctx context.Context, o lockOptions) error {
	// The file that is edited is the one in the work tree, and so is what it is for.
	a.settings.Dev = true
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	next := &plan.Lock{Salts: p.Lock.Salts}
	bases, err := plan.BasesOf(ctx, p.Config, p.Tree)
	if err != nil {
		return err
	}
	for _, b := range bases {
		digest := p.Lock.Base(b.Reference, b.Platform)
		if digest == "" || o.update {
			if digest, err = st.ResolveBase(ctx, b.Reference, b.Platform); err != nil {
				return fmt.Errorf("base %s for %s: %w", b.Reference, b.Platform, err)
			}
		}
		next.Pin(b.Reference, b.Platform, digest)
		fmt.Fprintf(a.Err, "%s for %s is %s\n", b.Reference, b.Platform, digest)
	}
	if err := a.lockRemotes(ctx, p, o.update, next); err != nil {
		return err
	}
	for _, img := range p.Config.Images {
		if o.refresh != img.Name && o.refresh != "all" || o.refresh == "" {
			continue
		}
		salt, err := newSalt(a.host.Rand)
		if err != nil {
			return err
		}
		next.Refresh(img.Name, salt)
		o.refresh = keepAll(o.refresh)
	}
	if o.refresh != "" && o.refresh != "all" {
		return fmt.Errorf("%w: %q", plan.ErrNoSuchImage, o.refresh)
	}
	return writeLock(filepath.Join(a.settings.Dir, plan.LockFile), next.Encode())
}

// lockRemotes pins the other repositories that the project names.
func (a *app) lockRemotes(ctx context.Context, p *wire.Project, update bool, next *plan.Lock) error {
	for _, r := range plan.RemotesOf(p.Config) {
		commit := p.Lock.Commit(r)
		if r.Commit() == "" && (commit == "" || update) {
			var err error
			if commit, err = p.Remotes.ResolveRemote(ctx, r); err != nil {
				return err
			}
		}
		next.PinCommit(r, commit)
		fmt.Fprintf(a.Err, "%s of %s is %s\n", r.Words(), r.URL, commit)
	}
	return nil
}

// writeLock writes the lock file. What is beside it is of no interest in an error.
func writeLock(path string, b []byte) error {
	err := replaceFile(path, b)
	if err == nil {
		return nil
	}
	var failed *fs.PathError
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return &hintedError{fmt.Errorf("write %s: %w", path, err), "the project's directory must be writable: run it in a clone of your own"}
}

// keepAll returns what is still to be refreshed after one image was.
func keepAll(refresh string) string {
	if refresh == "all" {
		return refresh
	}
	return ""
}

func newSalt(random io.Reader) (string, error) {
	b := make([]byte, 8)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// replaceFile writes a file whole or not at all: whoever reads it sees the old one
// or the new one. Others than its user may read it.
func replaceFile(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".cairn-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
