package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

func (a *app) locksCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "locks",
		Short: "Look at the stages in flight",
		Long: `The commands of locks are about the ledger: which runner is at work on which stage,
and which stages have just been published or deleted.`,
		Example: "  cairn locks ls",
	})
	cmd.AddCommand(a.listLocksCommand(), a.breakLockCommand())
	return cmd
}

func (a *app) listLocksCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List who holds which stage",
		Long: `Ls lists the ledger's entries: the stage, its state, who holds it and since when. The
fence is a number that grows with every acquisition. Of the session it says what was
observed:

  renewed 4s ago  by the cluster's clock; it is dead when this is more than its ttl
  alive           the process runs, on this host
  not observed    there is a record, but the cluster does not say when it was renewed
  gone            there is no record; the next runner that needs the stage takes it over
  ended           nor need there be one: what the entry tells of is done`,
		Example: `  cairn locks ls
  cairn locks ls --output json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.listLocks(cmd.Context()) },
	}
}

// lockReport is a lock as it is shown.
type lockReport struct {
	Digest   string     `json:"digest"`
	State    string     `json:"state"`
	Holder   string     `json:"holder,omitempty"`
	Session  string     `json:"session"`
	Gone     bool       `json:"gone"`
	Observed string     `json:"observed"`
	Silent   *float64   `json:"silentSeconds,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
	Fence    uint64     `json:"fence"`
	Manifest string     `json:"manifest,omitempty"`
	Object   string     `json:"object"`
}

func reportLock(l wire.Lock) lockReport {
	r := lockReport{
		Digest: l.Digest.String(), State: string(l.Entry.State), Holder: l.Name, Session: l.Session,
		Gone: observed(l) == gone, Observed: observed(l), Fence: l.Fence, Manifest: l.Entry.Manifest.String(), Object: l.Shard,
	}
	if !l.Since.IsZero() {
		r.Since = &l.Since
	}
	if l.Silent != nil {
		seconds := l.Silent.Seconds()
		r.Silent = &seconds
	}
	return r
}

// gone is a session that left something to take over.
const gone = "gone"

// observed says what is known of the session that an entry names.
func observed(l wire.Lock) string {
	switch {
	case l.Dead && (l.Entry.State == synchronization.Published || l.Entry.State == synchronization.Deleted):
		return "ended"
	case l.Dead:
		return gone
	case l.Alive:
		return "alive"
	case l.Silent != nil:
		return fmt.Sprintf("renewed %s ago", l.Silent.Round(time.Second))
	}
	return "not observed"
}

// withLocks opens the project's ledger for do.
func (a *app) withLocks(ctx context.Context, do func(*wire.Locks) error) (err error) {
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	locks, err := a.settings.Locks(ctx, a.host, p.Config.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, locks.Close()) }()
	return do(locks)
}

func (a *app) listLocks(ctx context.Context) error {
	return a.withLocks(ctx, func(locks *wire.Locks) error {
		found, nonsense := locks.List(ctx)
		if nonsense != nil && found == nil {
			return nonsense
		}
		all := make([]lockReport, len(found))
		for i, l := range found {
			all[i] = reportLock(l)
		}
		if a.output == formatJSON {
			return errors.Join(writeJSON(a.Out, all), nonsense)
		}
		return errors.Join(a.showLocks(all), nonsense)
	})
}

func (a *app) showLocks(all []lockReport) error {
	if len(all) == 0 {
		_, err := fmt.Fprintf(a.Out, "No locks in %s\n", a.settings.LedgerAddress(a.host))
		return err
	}
	w := a.table()
	fmt.Fprintln(w, "STAGE\tSTATE\tHOLDER\tSINCE\tFENCE\tSESSION")
	for _, l := range all {
		since := "-"
		if l.Since != nil {
			since = l.Since.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s (%s)\n", shortDigest(l.Digest), l.State, oneLine(orDash(l.Holder)), since, l.Fence, l.Session, l.Observed)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// shortDigest is as other tables show a stage.
func shortDigest(s string) string {
	d, err := stages.ParseDigest(s)
	if err != nil {
		return s
	}
	return d.Short()
}

func (a *app) breakLockCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "break DIGEST",
		Short: "Take a stage from its holder",
		Long: `Break removes a stage's entry from the ledger, whatever it holds. A runner that dies
needs no such help: others take its stages over after a while. It is for an entry
that stands in the way although nobody works on the stage, and ends its protection
early, so be sure of that. DIGEST may be shortened as "cairn locks ls" shows it.
Who broke the lock and why is noted: as an event in the cluster, or in the file
broken.log of a local ledger.`,
		Example: `  cairn locks break 3f2a9c81d04e --reason "runner was deleted by hand"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef(cmd, "say why with --reason")
			}
			return a.breakLock(cmd.Context(), cmd, args[0], reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that says why, for those who look for it later")
	return cmd
}

func (a *app) breakLock(ctx context.Context, cmd *cobra.Command, name, reason string) error {
	return a.withLocks(ctx, func(locks *wire.Locks) error {
		if locks.None() {
			return a.toldOfBreak(brokenLock{Digest: name}, fmt.Sprintf("There is no ledger in %s, so nothing is held", a.settings.LedgerAddress(a.host)))
		}
		d, err := findLock(ctx, cmd, locks, name)
		if err != nil {
			return err
		}
		noted, err := locks.Break(ctx, d, reason)
		if err != nil {
			return err
		}
		if noted == "" {
			return a.toldOfBreak(brokenLock{Digest: d.String()}, fmt.Sprintf("Stage %s is not held: there was no lock to break", d.Short()))
		}
		return a.toldOfBreak(brokenLock{Digest: d.String(), Broken: true, Noted: noted}, fmt.Sprintf("Broke the lock of stage %s; noted in %s", d.Short(), noted))
	})
}

// brokenLock is what "cairn locks break" reports.
type brokenLock struct {
	Digest string `json:"digest"`
	Broken bool   `json:"broken"`
	Noted  string `json:"noted,omitempty"`
}

// toldOfBreak reports in JSON, or for people.
func (a *app) toldOfBreak(b brokenLock, text string) error {
	if a.output == formatJSON {
		return writeJSON(a.Out, b)
	}
	_, err := fmt.Fprintln(a.Out, text)
	return err
}

// findLock returns the stage whose entry name means. A whole digest need not be
// among those listed: its entry may hold nonsense.
func findLock(ctx context.Context, cmd *cobra.Command, locks *wire.Locks, name string) (stages.Digest, error) {
	hex := strings.TrimPrefix(name, "sha256:")
	found, err := locks.List(ctx)
	if err != nil && !errors.Is(err, synchronization.ErrBadEntry) {
		return stages.Digest{}, err
	}
	if d, err := stages.ParseDigest(hex); err == nil {
		return d, nil
	}
	var match []stages.Digest
	for _, l := range found {
		if strings.HasPrefix(l.Digest.Hex(), hex) {
			match = append(match, l.Digest)
		}
	}
	if len(match) != 1 || hex == "" {
		return stages.Digest{}, usagef(cmd, "%q names %s of the %s in the ledger", name, plural(len(match), "stage"), plural(len(found), "stage"))
	}
	return match[0], nil
}
