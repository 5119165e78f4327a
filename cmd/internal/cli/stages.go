package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

func (a *app) stagesCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "stages",
		Short:   "Look after what the stages storage holds",
		Long:    `The commands of stages are about the stages in the storage as a whole.`,
		Example: "  cairn stages ls",
	})
	cmd.AddCommand(a.switchCommand(), a.switchBackCommand(), a.listStagesCommand(), a.verifyStagesCommand(), a.rejectStageCommand(), a.syncStagesCommand())
	return cmd
}

// held is a project's storage with all that is in it.
type held struct {
	project   *wire.Project
	storages  *wire.Storages
	storage   storage.Storage
	inventory *inventory.Inventory
}

// withInventory reads all that the project's storage holds, for do.
func (a *app) withInventory(ctx context.Context, fresh bool, do func(held) error) error {
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	// Not through a hold: to look at stages is not to use them.
	s, err := st.Open(ctx, p.Config.Name, a.settings.Storage)
	if err != nil {
		return err
	}
	inv, err := a.readInventory(ctx, st, s, p.Config.Name, fresh)
	if err != nil {
		return err
	}
	return do(held{p, st, s, inv})
}

func (a *app) readInventory(ctx context.Context, st *wire.Storages, s storage.Storage, project string, fresh bool) (*inventory.Inventory, error) {
	m := a.newMeter()
	inv, err := st.Inventory(ctx, project, s, fresh, func(done, total int) {
		m.show(func() string { return fmt.Sprintf("read %d of %s of %s", done, plural(total, "name"), s.Address()) })
	})
	m.close()
	if err != nil {
		return nil, hintListing(err)
	}
	if inv.IndexError != nil {
		a.warnf("%v", inv.IndexError)
	}
	return inv, nil
}

// hintListing says what can be done where only the listing is refused.
func hintListing(err error) error {
	var e *storage.Error
	if !errors.As(err, &e) || e.Op != "list tags" {
		return err
	}
	for _, class := range []error{storage.ErrDenied, storage.ErrUnauthorized, storage.ErrUnsupported, storage.ErrInvalid} {
		if errors.Is(err, class) {
			return &hintedError{err, "listing tags is a permission of its own with some registries, and some do not offer it: give it to this user, or ask where it is offered"}
		}
	}
	return err
}

// planFor plans the current commit for names only: where that cannot be, a warning
// says so and less is known about what the stages are.
func (a *app) planFor(ctx context.Context, h held) *stages.Plan {
	p, err := h.project.Plan(ctx, h.storages, nil)
	if err != nil {
		a.warnf("stages of the current commit are not named: %v", err)
		return nil
	}
	return p
}
