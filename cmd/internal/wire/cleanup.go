package wire

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/kube"
	"github.com/cairnbuild/cairn/cleanup/live"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

// CleanupOptions are the choices of a cleanup.
type CleanupOptions struct {
	// Contexts are those of the kubeconfig to look into; none means all.
	Contexts []string
	// WithoutKube looks into no cluster, WithoutFetch at no remote.
	WithoutKube, WithoutFetch bool
	// AlsoKnownAs are other names of the storage: mirrors and proxies.
	AlsoKnownAs []string
	// KeepList is a file of what is kept, or empty.
	KeepList string
	// AllowEmptyKeep is that of cleanup.Input.
	AllowEmptyKeep bool
	// Progress is told what is being done, and how far it is where total is above 0.
	Progress func(what string, done, total int)
}

// Cleanup is a plan of what goes from a project's storage, with what it follows from.
type Cleanup struct {
	cleanup.Decision
	Storage string
	// References counts the kept ones, Commits those that they keep.
	References int
	Commits    []cleanup.Commit
	// Bare are the kept references whose commit has no configuration anywhere.
	Bare []string
	// Open are the reasons for which builds that nobody knows are kept.
	Open []string
	// Clusters are those that were looked into.
	Clusters []string
	// WithoutKube says that no cluster was asked, and by whose choice.
	WithoutKube string
	// Unread is what could not be read of clusters.
	Unread []*kube.Error
	// IndexError is that of the inventory.
	IndexError error
	// Unverified names the kind of registry where nobody has told yet that cleanups work
	// there as its documents say.
	Unverified string

	settings Settings
	host     Host
	project  string
	stages   storage.Storage
	known    []string
	// asked are the names whose manifests the storage told when this plan was made.
	asked map[string]bool
}

// ErrCleanupDisabled says that the configuration wants no cleanup.
var ErrCleanupDisabled = errors.New("cleanup is disabled in the configuration (cleanup.disable)")

// foreignAtOnce bounds the requests for tags that are not the project's.
const foreignAtOnce = 8

// PlanCleanup decides what goes from the project's storage. Where everything would
// go, the plan is returned beside cleanup.ErrKeepsNothing.
//
// This host's index tells what names lead to, and a name that was published anew
// leads elsewhere: what a cluster uses of that would not be recognized. So the
// storage is asked for each name that would go and was not read just now, and where one
// has moved the plan is made once more from what the storage says of all.
func (s Settings) PlanCleanup(ctx context.Context, h Host, p *Project, st *Storages, o CleanupOptions) (*Cleanup, error) {
	c, err := s.planCleanup(ctx, h, p, st, o, false)
	if c == nil {
		return nil, err
	}
	o.Progress("asking for what would go", 0, 0)
	moved, failed := c.moved(ctx)
	if failed != nil {
		return nil, failed
	}
	if moved {
		return s.planCleanup(ctx, h, p, st, o, true)
	}
	return c, err
}

// moved reports whether a name that would go leads to something else than the plan
// was made with.
func (c *Cleanup) moved(ctx context.Context) (bool, error) {
	var moved atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(foreignAtOnce)
	for _, r := range c.Remove {
		if c.asked[r.Tag()] {
			continue
		}
		g.Go(func() error {
			d, err := c.stages.Resolve(ctx, r.Tag())
			if errors.Is(err, storage.ErrNotFound) {
				return nil // it has just gone
			}
			if err == nil && d.Digest != r.Manifest {
				moved.Store(true)
			}
			return err
		})
	}
	err := g.Wait()
	return moved.Load(), err
}

// planCleanup makes one plan; with fresh, from what the storage says of every name.
func (s Settings) planCleanup(ctx context.Context, h Host, p *Project, st *Storages, o CleanupOptions, fresh bool) (*Cleanup, error) {
	if p.Config.Cleanup.Disabled {
		return nil, ErrCleanupDisabled
	}
	stagesStorage, err := st.Stages(ctx, p.Config.Name)
	if err != nil {
		return nil, err
	}
	c := &Cleanup{Storage: stagesStorage.Address(), settings: s, host: h, project: p.Config.Name, stages: stagesStorage}
	in := cleanup.Input{Now: h.Now(), KeepBuiltWithin: p.Config.Cleanup.KeepBuiltWithin, AllowEmptyKeep: o.AllowEmptyKeep}
	if in.Listed, err = readKeepList(o.KeepList); err != nil {
		return nil, err
	}
	in.Inventory, err = st.Inventory(ctx, c.project, stagesStorage, fresh, func(done, total int) { o.Progress("reading the storage", done, total) })
	if err != nil {
		return nil, err
	}
	if err := c.checkMarker(in.Inventory); err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return c.nameForeign(ctx, &in) },
		func() error { return c.findCommits(ctx, p, st, o, &in) },
		func() error { return c.findUses(ctx, p, o, &in) },
		func() error { return c.readEntries(ctx, &in) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if product := st.Product(c.Storage); product.Name != "" && !product.Verified {
		c.Unverified = product.Name
	}
	o.Progress("deciding", 0, 0)
	c.IndexError, c.Open = in.Inventory.IndexError, in.Open
	c.asked = make(map[string]bool)
	for _, n := range in.Inventory.Names {
		c.known = append(c.known, n.Tag)
		if n.Asked {
			c.asked[n.Tag] = true
		}
	}
	c.Decision, err = cleanup.Plan(in)
	return c, err
}

// checkMarker refuses a storage that is not known to be this project's.
func (c *Cleanup) checkMarker(inv *inventory.Inventory) error {
	foreign := &build.ForeignStorageError{Storage: c.Storage, What: "project", Ours: c.project}
	if inv.Marker.Bytes == nil {
		if slices.ContainsFunc(inv.Names, func(n inventory.Name) bool { return n.Kind != inventory.KindForeign }) {
			return foreign
		}
		return nil // nothing of anybody's is there
	}
	m, err := storage.ParseMarker(inv.Marker)
	if err != nil {
		return err
	}
	if foreign.Theirs = m.Project; m.Project != c.project {
		return foreign
	}
	return nil
}

// nameForeign asks what tags that are not the project's name.
func (c *Cleanup) nameForeign(ctx context.Context, in *cleanup.Input) error {
	in.Named = make(map[string]digest.Digest)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(foreignAtOnce)
	for _, n := range in.Inventory.Names {
		if n.Kind != inventory.KindForeign {
			continue
		}
		g.Go(func() error {
			d, err := c.stages.Resolve(ctx, n.Tag)
			if errors.Is(err, storage.ErrNotFound) {
				return nil // it has just gone, or leads nowhere
			}
			mu.Lock()
			defer mu.Unlock()
			in.Named[n.Tag] = d.Digest
			return err
		})
	}
	return g.Wait()
}

func (c *Cleanup) findCommits(ctx context.Context, p *Project, st *Storages, o CleanupOptions, in *cleanup.Input) error {
	policies := p.Config.Cleanup.KeepPolicies
	if len(policies) == 0 {
		return nil
	}
	o.Progress("fetching branches and tags", 0, 0)
	refs, open, err := references(ctx, p.Repo, o.WithoutFetch)
	if err != nil {
		return err
	}
	found, err := live.Find(ctx, live.Input{
		Policies: policies, References: refs, Inventory: in.Inventory, Now: in.Now,
		Histories: histories{p.Repo}, Planner: &commitPlanner{settings: c.settings, host: c.host, project: c.project, bases: st},
		Progress: func(done, total int) { o.Progress("planning the commits of references", done, total) },
	})
	if err != nil {
		return err
	}
	in.Commits, in.Open = found.Commits, slices.Concat(open, found.Open)
	c.Commits, c.References, c.Bare = found.Commits, found.References, found.Bare
	return nil
}

// findUses asks clusters what they use.
func (c *Cleanup) findUses(ctx context.Context, p *Project, o CleanupOptions, in *cleanup.Input) error {
	switch {
	case o.WithoutKube:
		c.WithoutKube = "by --without-kube"
		return nil
	case p.Config.Cleanup.WithoutKubernetes:
		c.WithoutKube = "by cleanup.disableKubernetesBasedPolicy in " + p.File
		return nil
	}
	clusters, unread, err := c.host.clusters(o.Contexts)
	if err != nil {
		return err
	}
	quietKlog(c.host.Log)
	c.Unread = unread
	known, names := digestsOf(in.Inventory), o.AlsoKnownAs
	if c.Storage != Local { // which no cluster can pull from
		names = append([]string{c.Storage}, names...)
	}
	for _, cluster := range clusters {
		used, failed, err := kube.Read(ctx, cluster, kube.Query{
			Known: func(d stages.Digest) bool { return known[d] }, Names: names,
			UserAgent: "cairn/" + c.host.Version,
			Progress:  func(done, total int) { o.Progress("looking into cluster "+cluster.Name, done, total) },
		})
		if err != nil {
			return err
		}
		c.Clusters = append(c.Clusters, cluster.Name)
		in.InUse, c.Unread = append(in.InUse, used...), append(c.Unread, failed...)
	}
	for _, u := range c.Unread {
		in.Unread = append(in.Unread, u.Error())
	}
	return nil
}

// digestsOf returns every digest that means something in the storage.
func digestsOf(inv *inventory.Inventory) map[stages.Digest]bool {
	out := make(map[stages.Digest]bool, 2*len(inv.Names))
	for _, n := range inv.Names {
		const length = 2 * len(stages.Digest{})
		if len(n.Tag) < length {
			continue
		}
		if d, err := stages.ParseDigest(n.Tag[len(n.Tag)-length:]); err == nil {
			out[d] = true
		}
	}
	for m := range inv.Manifests {
		var d stages.Digest
		if n, err := hex.Decode(d[:], []byte(m.Encoded())); err == nil && n == len(d) {
			out[d] = true
		}
	}
	return out
}

// readEntries asks the ledger what is in flight. Where there is no ledger yet,
// nothing is.
func (c *Cleanup) readEntries(ctx context.Context, in *cleanup.Input) error {
	locks, err := c.settings.Locks(ctx, c.host, c.project)
	if err != nil {
		return err
	}
	all, err := locks.List(ctx)
	in.Entries = make(map[stages.Digest]synchronization.Entry, len(all))
	for _, l := range all {
		in.Entries[l.Digest] = l.Entry
	}
	return errors.Join(err, locks.Close())
}

// CleanupRun are the choices of carrying a cleanup out.
type CleanupRun struct {
	Grace   time.Duration
	Waiting func(synchronization.Holder)
	Done    func(sweep.Result)
}

// Apply removes what the plan says goes, beside running builds, and ends what an
// earlier run that was killed has begun.
func (c *Cleanup) Apply(ctx context.Context, o CleanupRun) (out sweep.Outcome, err error) {
	l, err := c.settings.openLedger(ctx, c.host, c.project, new(atomic.Int64), nil)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return c.sweep(ctx, l, c.removals(), o)
}

// removals returns what goes, as package sweep wants it.
func (c *Cleanup) removals() []sweep.Name {
	var all []sweep.Name
	for _, r := range c.Remove {
		kind := sweep.Index
		if r.Kind == inventory.KindStage {
			kind = sweep.Stage
		}
		all = append(all, sweep.Name{Kind: kind, Digest: r.Digest, Manifest: r.Manifest, On: r.On, Layers: r.Layers})
	}
	return all
}

// sweep removes names under entries of the ledger.
func (c *Cleanup) sweep(ctx context.Context, l *ledger, names []sweep.Name, o CleanupRun) (out sweep.Outcome, err error) {
	if err := build.CheckLedger(ctx, c.stages, l.Ledger); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return out, err
	}
	if err := build.Bind(ctx, c.stages, l.Ledger); err != nil {
		return out, err
	}
	session, err := l.Join(ctx)
	if err != nil {
		return out, fmt.Errorf("join the ledger: %w", err)
	}
	defer func() { err = errors.Join(err, session.Close(context.WithoutCancel(ctx))) }()
	err = bounded(ctx, cleanupLimit, o.Waiting, func(ctx context.Context, waiting func(synchronization.Holder)) error {
		var err error
		out, err = sweep.Run(ctx, sweep.Plan{Remove: names, Known: sweep.Known(c.known)}, sweep.Options{
			Storage: c.stages, Ledger: l.Ledger, Session: session, Grace: o.Grace, Waiting: waiting, Done: o.Done,
		})
		return err
	})
	return out, err
}
