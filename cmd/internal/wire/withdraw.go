package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/verify"
	"github.com/cairnbuild/cairn/synchronization"
)

// Withdrawal is names that are to be removed from a project's storage.
type Withdrawal struct {
	Project string
	From    storage.Storage
	Plan    sweep.Plan
	// Reason says why, for those who look for it later.
	Reason string
	// Done is told what became of each name, by one call at a time.
	Done func(sweep.Result)
	// Waiting is told of each runner that is waited for: builds that began before
	// may be about to use what is withdrawn.
	Waiting func(synchronization.Holder)
}

// withdrawLimit bounds a withdrawal with all its waits: who is at work for longer
// than that holds it up no more.
const withdrawLimit = time.Hour

// errWithdrawLimit ends a withdrawal.
var errWithdrawLimit = fmt.Errorf("builds that were under way did not end within %v: run it again", withdrawLimit)

// withdrawLog is where a local ledger's directory tells of what was withdrawn.
const withdrawLog = "withdrawn.log"

// Withdraw removes names beside running builds, under entries of the ledger. No name
// waits for a grace: what is withdrawn is of no use to whoever has found it. It
// returns where the withdrawal was noted.
func (s Settings) Withdraw(ctx context.Context, h Host, st *Storages, w Withdrawal) (noted string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, withdrawLimit, errWithdrawLimit)
	defer cancel()
	l, err := s.openLedger(ctx, h, w.Project, &st.asked, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := build.CheckLedger(ctx, w.From, l.Ledger); err != nil {
		return "", err
	}
	session, err := l.Join(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, session.Close(context.WithoutCancel(ctx))) }()
	if noted, err = s.noteWithdrawal(ctx, h, l, w); err != nil {
		return "", err
	}
	_, err = sweep.Run(ctx, w.Plan, sweep.Options{Storage: w.From, Ledger: l.Ledger, Session: session, Done: w.Done, Waiting: w.Waiting})
	return noted, err
}

// withdrawNote is a line of the log of withdrawals.
type withdrawNote struct {
	At     time.Time `json:"at"`
	Tags   []string  `json:"tags"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// noteWithdrawal notes who withdraws what and why, before it happens: as an event
// in the cluster, or in a file beside a local ledger.
func (s Settings) noteWithdrawal(ctx context.Context, h Host, l *ledger, w Withdrawal) (string, error) {
	if c, ok := l.backend.(warner); ok && len(w.Plan.Remove) > 0 {
		shard := l.ShardOf(w.Plan.Remove[0].Digest)
		message := fmt.Sprintf("%d names of %s, by %s: %s", len(w.Plan.Remove), w.From.Address(), holder(), w.Reason)
		return "events of configmap " + shard, c.Warn(ctx, shard, "StagesWithdrawn", message)
	}
	dir, err := s.ledgerDir(h, w.Project)
	if err != nil {
		return "", err
	}
	note := withdrawNote{At: h.Now().UTC().Truncate(time.Second), By: holder(), Reason: w.Reason}
	for _, n := range w.Plan.Remove {
		note.Tags = append(note.Tags, n.Tag())
	}
	path := filepath.Join(dir, withdrawLog)
	return path, appendLine(path, note)
}

// Elsewhere returns where content of a project's storage may be besides: in the
// local cache, among :local stages, in the secondary storage, and in the
// repositories of the bases of a plan, which may be nil.
func (st *Storages) Elsewhere(ctx context.Context, project string, p *stages.Plan) ([]verify.Source, error) {
	out, err := st.onThisHost(ctx, project)
	if err != nil {
		return nil, err
	}
	if address := st.settings.Secondary; address != "" {
		s, err := st.Open(ctx, project, address)
		if err != nil {
			return nil, err
		}
		out = append(out, verify.Source{Fetcher: s, Name: "the secondary storage " + address})
	}
	if p == nil {
		return out, nil
	}
	seen := map[string]bool{}
	for _, img := range p.All() {
		for _, s := range img.Stages {
			if s.BaseRef == nil || seen[s.BaseRef.Name] {
				continue
			}
			seen[s.BaseRef.Name] = true
			repo, err := st.Base(ctx, s.BaseRef.Name)
			if err != nil {
				return nil, err
			}
			out = append(out, verify.Source{Fetcher: repo, Name: "the base " + s.BaseRef.Name})
		}
	}
	return out, nil
}

// onThisHost opens the project's layouts on this host but for the storage itself.
func (st *Storages) onThisHost(ctx context.Context, project string) ([]verify.Source, error) {
	cache, err := st.settings.cacheDir(st.host)
	if err != nil {
		return nil, err
	}
	var out []verify.Source
	for _, kind := range []string{"kept", "stages"} {
		dir := filepath.Join(cache, kind, project)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || kind == "stages" && st.settings.Storage == Local {
			continue
		}
		s, err := local.Open(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("open the local cache: %w", err)
		}
		out = append(out, verify.Source{Fetcher: s, Name: "the local cache " + dir})
	}
	return out, nil
}
