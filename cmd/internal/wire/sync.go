package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

// SyncOptions say what a sync copies.
type SyncOptions struct {
	// From and To are addresses: a repository, :local, oci:DIR or oci-archive:FILE.
	From, To string
	// Images, where not nil, are the only images to be copied.
	Images []string
	// Since, where not 0, leaves out what was not used for so long, or, where a
	// storage does not know of uses, what has been there for longer.
	Since time.Duration
	// Plan, where not nil, is the build whose stages alone are copied.
	Plan *stages.Plan
	// Project is the project's name as the configuration has it, "" where there is
	// none: the source's marker tells it then.
	Project string
	DryRun  bool
	// Remove has what is at the target, verified there, removed from the source.
	Remove bool
	// Progress counts what is done.
	Progress *transfer.Progress
}

// Sync is what a sync did.
type Sync struct {
	Project string
	Plan    *transfer.Plan
	Result  *transfer.Result // nil for a dry run
	Missing []string
	Others  int
	// Ledger is set where the stages were named under entries of the target's ledger.
	Ledger bool
	// Removed are the names that were removed from the source.
	Removed []string
}

// syncing is a sync under way.
type syncing struct {
	SyncOptions
	settings Settings
	host     Host
	storages *Storages
	from, to *end
	view     *transfer.View
	done     *Sync
}

// Sync copies stages from one storage to another. Beside an error it returns what
// was done until then, nil where nothing was begun.
func (s Settings) Sync(ctx context.Context, h Host, st *Storages, o SyncOptions) (_ *Sync, err error) {
	w := &syncing{SyncOptions: o, settings: s, host: h, storages: st, done: &Sync{}}
	defer func() { err = errors.Join(err, st.Release(context.WithoutCancel(ctx))) }()
	if w.from, err = st.source(ctx, o.Project, o.From); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.from.close()) }()
	if err := w.identify(ctx); err != nil {
		return nil, err
	}
	if w.to, err = w.openTarget(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.to.close()) }()
	if w.from.same(w.to) {
		return nil, &SameStorageError{From: o.From, To: o.To}
	}
	marker, err := w.owner(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.plan(ctx); err != nil || o.DryRun {
		return w.done, err
	}
	return w.done, w.copy(ctx, marker)
}

// ErrNoProject is returned where neither the source nor a configuration says whose
// stages are copied.
var ErrNoProject = errors.New("the source does not say which project's stages it holds")

// identify finds out whose stages the source has.
func (w *syncing) identify(ctx context.Context) error {
	m, err := storage.ReadMarker(ctx, w.from)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		m.Project = w.Project
	case err != nil:
		return err
	}
	switch {
	case m.Project == "":
		return ErrNoProject
	case w.Project != m.Project && (w.From == Local || w.To == Local || w.Plan != nil):
		return &transfer.OwnerError{Storage: w.From, Project: m.Project, Ours: w.Project}
	case w.Remove && m.Ledger != "":
		return &SourceInUseError{Storage: w.From}
	}
	w.done.Project = m.Project
	return nil
}

// SourceInUseError says that stages cannot be removed from a storage since builds
// rely on what they find there.
type SourceInUseError struct{ Storage string }

// Error implements error.
func (e *SourceInUseError) Error() string {
	return fmt.Sprintf("builds publish into %s and rely on what they find there: nothing is removed from it beside them", e.Storage)
}

// Hint says what to do.
func (*SourceInUseError) Hint() string {
	return "copy without --remove-source, and have cairn cleanup remove what is not needed; to move a project, use cairn stages switch-from-local"
}

// openTarget opens the target. A dry run makes none: what is not there is empty.
func (w *syncing) openTarget(ctx context.Context) (*end, error) {
	if !w.DryRun {
		return w.storages.target(ctx, w.done.Project, w.To)
	}
	e, err := w.storages.source(ctx, w.done.Project, w.To)
	if errors.Is(err, storage.ErrNotFound) {
		return &end{Storage: nothing{}, address: w.To}, nil
	}
	return e, err
}

// owner looks whose the target is, and marks it where it is nobody's.
func (w *syncing) owner(ctx context.Context) (storage.Marker, error) {
	if !w.DryRun {
		return transfer.CheckOwner(ctx, w.to, w.done.Project)
	}
	m, err := transfer.Owner(ctx, w.to, w.done.Project)
	if errors.Is(err, storage.ErrNotFound) {
		return m, nil
	}
	return m, err
}

func (w *syncing) plan(ctx context.Context) error {
	look := transfer.LookOptions{Progress: w.Progress, Contents: w.Images != nil, Attached: w.Remove, Known: w.known()}
	sel := transfer.Selection{Images: w.Images}
	if w.Plan != nil {
		tags, err := tagsOfBuild(w.Plan)
		if err != nil {
			return err
		}
		look.Only = tags
	}
	if w.Since != 0 {
		var err error
		if sel.Tags, err = w.usedSince(ctx, w.host.Now().Add(-w.Since)); err != nil {
			return err
		}
	}
	v, err := transfer.Look(ctx, w.from.Storage, w.to.Storage, look)
	if err != nil {
		return err
	}
	w.view, w.done.Missing, w.done.Others = v, v.Missing, v.Others
	w.done.Plan, err = transfer.NewPlan(v, sel)
	return err
}

// tagsOfBuild are the names of a build: its stages, its index and those of images
// for several platforms.
func tagsOfBuild(p *stages.Plan) ([]string, error) {
	var tags []string
	for _, img := range p.All() {
		for _, s := range img.Stages {
			tags = append(tags, storage.StageTag(s.Digest))
		}
	}
	parts := map[string]*stages.Plan{}
	for _, img := range p.Images {
		if parts[img.Name] == nil {
			parts[img.Name] = &stages.Plan{Project: p.Project}
		}
		parts[img.Name].Images = append(parts[img.Name].Images, img)
	}
	roots := []*stages.Plan{p}
	for _, part := range parts {
		if len(part.Images) > 1 {
			roots = append(roots, part)
		}
	}
	for _, part := range roots {
		root, err := part.Root()
		if err != nil {
			return nil, err
		}
		tags = append(tags, storage.BuildTag(root))
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

func (w *syncing) copy(ctx context.Context, marker storage.Marker) (err error) {
	o := transfer.Options{Progress: w.Progress}
	if w.to.archive != nil {
		o.Concurrency = 1 // in the plan's order, which makes the same file each time
	}
	direct := transfer.NewDirect(w.to.Storage, w.done.Project, marker.Ledger != "", w.host.Now)
	o.Namer = direct
	if marker.Ledger != "" && len(w.done.Plan.Units) > 0 {
		named, end, err := w.throughLedger(ctx, direct)
		if err != nil {
			return err
		}
		defer func() { w.warn("leave the ledger", end()) }()
		o.Namer, w.done.Ledger = named, true
	}
	r, err := transfer.Copy(ctx, w.to.Storage, w.from.Storage, w.done.Plan, o)
	w.done.Result = r
	if err == nil {
		err = w.to.complete(ctx)
	}
	if err != nil {
		return err
	}
	w.remember(r)
	if w.Remove {
		return w.remove(ctx)
	}
	return nil
}

// throughLedger returns the namer for a target in which runners publish.
func (w *syncing) throughLedger(ctx context.Context, rest transfer.Namer) (_ transfer.Namer, end func() error, err error) {
	s := w.settings
	s.Storage = w.To
	if w.To != Local && w.to.layout != nil || w.to.archive != nil {
		return nil, nil, &transfer.InUseError{Storage: w.To}
	}
	l, err := s.openLedger(ctx, w.host, w.done.Project, &w.storages.asked, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := build.CheckLedger(ctx, w.to, l.Ledger); err != nil {
		return nil, nil, errors.Join(err, l.close())
	}
	if err := build.Bind(ctx, w.to.Storage, l.Ledger); err != nil {
		return nil, nil, errors.Join(err, l.close())
	}
	session, err := l.Join(context.WithoutCancel(ctx))
	if err != nil {
		return nil, nil, errors.Join(err, l.close())
	}
	return &ledgerNamer{target: w.to, session: session, rest: rest}, func() error {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
		defer cancel()
		return errors.Join(session.Close(bound), l.close())
	}, nil
}

// recordPath is where it is noted what the two storages name alike; "" where there
// is no directory for it, or the target is written anew anyway.
func (w *syncing) recordPath() string {
	dir, err := w.settings.cacheDir(w.host)
	if err != nil || w.to.archive != nil || w.from.archive != nil {
		return ""
	}
	return filepath.Join(dir, "sync", w.done.Project+"-"+shortHash(w.place(w.from)+"\n"+w.place(w.to)))
}

func (*syncing) place(e *end) string {
	if e.layout != nil {
		return e.layout.Dir()
	}
	return e.address
}

// known reads the record; without one, names are compared.
func (w *syncing) known() transfer.Record {
	path := w.recordPath()
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close() // it is only read
	rec, err := transfer.ReadRecord(f)
	if err != nil {
		return nil
	}
	return rec
}

// remember writes the record. A failure costs the next sync requests.
func (w *syncing) remember(r *transfer.Result) {
	path := w.recordPath()
	if path == "" {
		return
	}
	w.warn("remember what the storages have in common", writeRecord(path, w.view.Record(w.known(), r)))
}

func writeRecord(path string, rec transfer.Record) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".record-")
	if err != nil {
		return err
	}
	if err := errors.Join(rec.Write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

func (w *syncing) warn(what string, err error) {
	(&Builder{Host: w.host}).warn(what, err)
}
