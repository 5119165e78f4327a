package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/switchover"
)

// Defaults of a switch.
const (
	defaultDrain = 15 * time.Minute
	defaultGrace = 7 * 24 * time.Hour
)

type switchOptions struct {
	to, oldLedger string
	drain, grace  time.Duration
	status        bool
}

func (a *app) switchCommand() *cobra.Command {
	var o switchOptions
	cmd := &cobra.Command{
		Use:   "switch-from-local",
		Short: "Move the project from :local stages to a registry, while builds go on",
		Long: `Switch-from-local moves the stages of this host to the repository --to, and the
runners that coordinate in its ledger to the one of --synchronization. Contents are
copied first; then running builds come to their end while new ones wait, the old
ledger is closed, the names follow, and the new ledger is opened. Where it is stands
in the old ledger, so it can be interrupted anywhere and run again.

Runs that still name :local are told what to set, or follow with --follow-switch. For
the time of --grace they look for what is missing in the old storage too. See
docs/switching.md.`,
		Example: `  cairn stages switch-from-local --to registry.example.com/shop/stages
  cairn stages switch-from-local --status`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.status:
				return a.switchStatus(cmd.Context(), o)
			case o.to == "":
				return usagef(cmd, "name the repository with --to")
			}
			return a.runSwitch(cmd.Context(), cmd, o, (*wire.Switching).Run)
		},
	}
	cmd.Flags().StringVar(&o.to, "to", "", "the `REPOSITORY` to move to")
	variables.Apart(cmd.Flags().Lookup("to"), "switch-to")
	o.flags(cmd)
	return cmd
}

func (a *app) switchBackCommand() *cobra.Command {
	var o switchOptions
	cmd := &cobra.Command{
		Use:   "switch-back",
		Short: "Take a switch back to the :local stages of this host",
		Long: `Switch-back takes back what switch-from-local did on this host, by the same steps the
other way: what was made in the repository meanwhile comes along. A switch that had not
come to its end is given up. The ledger of the repository is closed, for all hosts: run
it on each host that was switched.`,
		Example: `  cairn stages switch-back
  cairn stages switch-back --status`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.status {
				return a.switchStatus(cmd.Context(), o)
			}
			return a.runSwitch(cmd.Context(), cmd, o, (*wire.Switching).Back)
		},
	}
	o.flags(cmd)
	return cmd
}

func (o *switchOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.oldLedger, "local-synchronization", wire.Local, "`ADDRESS` of the ledger that the :local stages coordinate in")
	f.DurationVar(&o.drain, "drain-timeout", defaultDrain, "`DURATION` for which running builds are waited for; those that are still at work then go on in the other place, or fail with what they made kept")
	f.DurationVar(&o.grace, "grace", defaultGrace, "`DURATION` for which runs that follow look for what is missing in the storage that was left")
	f.BoolVar(&o.status, "status", false, "only tell at which step the switch is, how much is left, and who runs it")
}

// switching opens what a switch needs; the caller closes the storages.
func (a *app) switching(ctx context.Context, o switchOptions) (*wire.Switching, error) {
	p, st, err := a.openHere(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.Switching{
		Settings: a.settings, Host: a.host, Storages: st, Project: p.Config.Name,
		To: o.to, OldLedger: o.oldLedger, Drain: o.drain, Grace: o.grace,
	}, nil
}

func (a *app) runSwitch(ctx context.Context, cmd *cobra.Command, o switchOptions, do func(*wire.Switching, context.Context) (*switchover.Report, error)) error {
	if o.drain < 0 || o.grace < 0 {
		return usagef(cmd, "--drain-timeout and --grace are durations that are not negative")
	}
	w, err := a.switching(ctx, o)
	if err != nil {
		return err
	}
	defer w.Storages.Close()
	t := a.newSwitchTeller()
	w.Observe, w.Waiting, w.Passes = t.step, t.waiting, t.pass
	stop := t.meter.watch(t.progress)
	rep, err := do(w, ctx)
	stop()
	if err != nil {
		return a.failSwitch(ctx, rep, err)
	}
	return a.showSwitch(rep)
}

// switchTeller tells on standard error how a switch goes on. It may be used from
// several goroutines.
type switchTeller struct {
	meter *meter
	now   func() time.Time

	mu     sync.Mutex
	last   synchronization.Step
	copied *transfer.Progress // of the present pass; nil while nothing is copied
	began  time.Time          // when the pass did
}

func (a *app) newSwitchTeller() *switchTeller {
	return &switchTeller{meter: a.newMeter(), now: a.host.Now}
}

// step is told of each step, and how it goes on.
func (t *switchTeller) step(m synchronization.Move) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case m.Step != t.last:
		t.meter.line(oneLine(stepText(m)))
		t.copied = nil
	case m.Step == synchronization.Naming && m.Total > 0:
		t.meter.line(fmt.Sprintf("named %d of %d", m.Done, m.Total))
	}
	t.last = m.Step
}

// pass begins to copy what is there, for the first time or again.
func (t *switchTeller) pass() *transfer.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.copied, t.began = &transfer.Progress{}, t.now()
	return t.copied
}

// progress says how far the copying is, "" while nothing is copied.
func (t *switchTeller) progress() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copied == nil {
		return ""
	}
	return "copying: " + syncText(t.copied.Amounts(), t.now().Sub(t.began))
}

// waiting is told of a wait.
func (t *switchTeller) waiting(w switchover.Awaited) {
	t.meter.line(oneLine(awaitedText(w)))
}

// maxWaiters is how many that are waited for are named.
const maxWaiters = 4

// awaitedText says what a switch waits for, of whom and for how long.
func awaitedText(w switchover.Awaited) string {
	who := strings.Join(w.By[:min(len(w.By), maxWaiters)], "; ")
	if more := len(w.By) - maxWaiters; more > 0 {
		who += fmt.Sprintf("; and %d more", more)
	}
	left := shortDuration(w.Left)
	switch w.For {
	case switchover.EndOfBuilds:
		return fmt.Sprintf("waiting for %s to end, at most %s: %s", plural(len(w.By), "build"), left, who)
	case switchover.EndOfSwitch:
		return fmt.Sprintf("waiting to see whether who was switching lives, at most %s: %s", left, who)
	default:
		return fmt.Sprintf("waiting for %s, which is being published at the new place, at most %s: %s", w.Tag, left, who)
	}
}

// stepText says what a step does.
func stepText(m synchronization.Move) string {
	n, steps := 1, synchronization.Steps()
	for n < len(steps) && steps[n-1] != m.Step {
		n++
	}
	text := map[synchronization.Step]string{
		synchronization.Copying:   "copy what " + m.From.Storage + " holds to " + m.To.Storage,
		synchronization.Draining:  "wait for builds that run; new ones wait",
		synchronization.Closing:   "close the ledger " + m.From.Ledger,
		synchronization.Finishing: "finish what was decided in it",
		synchronization.Naming:    "copy the rest and give the names",
		synchronization.Opening:   "open the ledger " + m.To.Ledger,
		synchronization.Moved:     "moved to " + m.To.Storage + " with the ledger " + m.To.Ledger,
	}[m.Step]
	return fmt.Sprintf("step %d of %d: %s", n, len(steps), text)
}

// switchReport is what a switch reports, see docs/stages-switch.schema.json.
type switchReport struct {
	From    switchPlace `json:"from"`
	To      switchPlace `json:"to"`
	Already bool        `json:"already"`
	GivenUp bool        `json:"givenUp"`
	Named   int         `json:"named"`
	Left    []leftName  `json:"left"`
	Until   *time.Time  `json:"until,omitempty"`
	Error   *failure    `json:"error,omitempty"`
}

type switchPlace struct {
	Storage string `json:"storage"`
	Ledger  string `json:"ledger"`
}

type leftName struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

func switchReportOf(rep *switchover.Report) switchReport {
	r := switchReport{
		From: switchPlace{rep.From.Storage, rep.From.Ledger}, To: switchPlace{rep.To.Storage, rep.To.Ledger},
		Already: rep.Already, GivenUp: rep.GivenUp, Named: rep.Named, Left: []leftName{},
	}
	if !rep.Until.IsZero() {
		r.Until = &rep.Until
	}
	for _, l := range rep.Left {
		r.Left = append(r.Left, leftName{l.Tag, l.Err.Error()})
	}
	return r
}

// failSwitch tells of a switch that did not come to its end how far it came.
func (a *app) failSwitch(ctx context.Context, rep *switchover.Report, err error) error {
	if rep == nil {
		return err
	}
	r := switchReportOf(rep)
	if a.output != formatJSON {
		a.warnLeft(r)
		return err
	}
	f := failureOf(ctx, err)
	r.Error = &f
	return errors.Join(&reportedError{err}, writeJSON(a.Out, r))
}

func (a *app) showSwitch(rep *switchover.Report) error {
	r := switchReportOf(rep)
	a.warnLeft(r)
	if a.output == formatJSON {
		return writeJSON(a.Out, r)
	}
	var err error
	switch {
	case r.GivenUp:
		_, err = fmt.Fprintf(a.Out, "Gave the switch up: builds go on in %s\n", r.To.Storage)
	case r.Already:
		_, err = fmt.Fprintf(a.Out, "The stages are in %s already, with the ledger %s\n", r.To.Storage, r.To.Ledger)
	default:
		_, err = fmt.Fprintf(a.Out, "Moved %s from %s to %s; set for all runners:\n  CAIRN_STAGES_STORAGE=%s\n  CAIRN_SYNCHRONIZATION=%s\n",
			plural(r.Named, "name"), r.From.Storage, r.To.Storage, r.To.Storage, r.To.Ledger)
	}
	return err
}

// warnLeft names what was not moved.
func (a *app) warnLeft(r switchReport) {
	for i, l := range r.Left {
		if i == maxListed {
			a.warnf("… and %d more", len(r.Left)-maxListed)
			return
		}
		a.warnf("%s stays in %s: %s", l.Name, r.From.Storage, l.Why)
	}
}

// switchState is the status of a switch as it is shown, see docs/stages-switch-status.schema.json.
type switchState struct {
	// State is "none", "running", "stopped" or "moved".
	State string `json:"state"`
	// Open: builds go on in the old ledger.
	Open    bool         `json:"open"`
	Builds  int          `json:"builds"`
	Step    string       `json:"step,omitempty"`
	From    *switchPlace `json:"from,omitempty"`
	To      *switchPlace `json:"to,omitempty"`
	By      string       `json:"by,omitempty"`
	Since   *time.Time   `json:"since,omitempty"`
	Until   *time.Time   `json:"until,omitempty"`
	Named   int          `json:"named"`
	ToName  int          `json:"toName"`
	stepped string
}

func stateOf(st switchover.Status) switchState {
	s := switchState{State: "none", Open: st.Open, Builds: st.Builds}
	m := st.Move
	if m == nil {
		return s
	}
	s.State = "stopped"
	switch {
	case m.Step == synchronization.Moved:
		s.State, s.Until = "moved", &m.Until
	case st.Running:
		s.State = "running"
	}
	s.Step, s.By, s.Since, s.Named, s.ToName = string(m.Step), m.By, &m.Since, m.Done, m.Total-m.Done
	s.From, s.To = &switchPlace{m.From.Storage, m.From.Ledger}, &switchPlace{m.To.Storage, m.To.Ledger}
	s.stepped = stepText(*m)
	return s
}

func (a *app) switchStatus(ctx context.Context, o switchOptions) error {
	w, err := a.switching(ctx, o)
	if err != nil {
		return err
	}
	defer w.Storages.Close()
	st, err := w.Status(ctx)
	if err != nil {
		return err
	}
	s := stateOf(st)
	if a.output == formatJSON {
		return writeJSON(a.Out, s)
	}
	return a.showState(s)
}

func (a *app) showState(s switchState) error {
	var err error
	line := func(format string, args ...any) {
		_, failed := fmt.Fprintf(a.Out, format+"\n", args...)
		err = errors.Join(err, failed)
	}
	switch s.State {
	case "none":
		line("No switch: builds go on in %s", wire.Local)
		return err
	case "moved":
		line("Moved to %s, with the ledger %s, by %s", s.To.Storage, s.To.Ledger, oneLine(s.By))
		line("Misses are looked up in %s until %s", s.From.Storage, s.Until.UTC().Format(time.RFC3339))
		return err
	case "running":
		line("Running, by %s", oneLine(s.By))
	default:
		line("Stopped: %s has ended; run it again, or \"cairn stages switch-back\"", oneLine(s.By))
	}
	line("%s, since %s", s.stepped, s.Since.UTC().Format(time.RFC3339))
	if s.Named+s.ToName > 0 {
		line("%d of %s given", s.Named, plural(s.Named+s.ToName, "name"))
	}
	line("%s with a session in the old ledger", plural(s.Builds, "build"))
	return err
}

// classifySwitch is for what a switch of the storage meets, or has left behind.
func classifySwitch(err error) (int, string) {
	if errors.Is(err, switchover.ErrNothing) {
		return exitLedger, "\"cairn stages switch-from-local --status\" tells where the stages are; the way back is run on the host that was switched, with the same --cache-dir"
	}
	if errors.Is(err, synchronization.ErrTurned) {
		return exitLedger, "somebody else switches the project, or takes a switch back; \"cairn stages switch-from-local --status\" tells"
	}
	for _, is := range []bool{
		errors.As(err, new(*switchover.BusyError)), errors.As(err, new(*switchover.ElsewhereError)),
		errors.As(err, new(*switchover.SameLedgerError)), errors.As(err, new(*wire.MovedError)),
		errors.As(err, new(*wire.OtherLedgerError)), errors.As(err, new(*wire.SwitchingError)),
	} {
		if is {
			return exitLedger, "" // they bring their own
		}
	}
	return 0, ""
}

// waitingText says what keeps a build from beginning.
func waitingText(w synchronization.Awaited) string {
	who := oneLine(w.By)
	if w.Dead {
		who += ", who has ended: run the switch again, or \"cairn stages switch-back\""
	}
	if w.Step == "" {
		return "waiting: the stages are being moved to this storage by " + who
	}
	return fmt.Sprintf("waiting: the storage is being switched (%s) by %s", w.Step, who)
}
