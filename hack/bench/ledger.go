package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

// The load on a ledger: sessions, each a process of its own as far as the ledger
// is concerned, with so many stages each.
const (
	ledgerSessions = 50
	ledgerStages   = 8
)

// ledger has many runners take stages through acquisition, decision and
// publication in a real API server, beside as many who read one object and write
// it back, and measures how soon those who wait know of a publication.
func ledger(ctx context.Context, b *bench) (_ []figure, err error) {
	cluster, err := testbed.StartCluster(ctx, testbed.ClusterOptions{Optimized: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	y := &clusterYard{bench: b, cluster: cluster}
	var ours, burst, theirs []load
	var wakes []time.Duration
	for i := range b.rounds {
		l, err := y.cycles(ctx, (*ledgerRunner).oneByOne)
		if err != nil {
			return nil, err
		}
		b.say("round %d: %s", i+1, l)
		a, err := y.cycles(ctx, (*ledgerRunner).atOnce)
		if err != nil {
			return nil, err
		}
		b.say("round %d: all at once %s", i+1, a)
		n, err := y.naive(ctx)
		if err != nil {
			return nil, err
		}
		w, err := y.wakes(ctx)
		if err != nil {
			return nil, err
		}
		b.say("round %d: naively %s; wake-up p99 %d ms", i+1, n, w.Milliseconds())
		ours, burst, theirs, wakes = append(ours, l), append(burst, a), append(theirs, n), append(wakes, w)
	}
	return ledgerFigures(middle(ours), middle(burst), middle(theirs), median(wakes)), nil
}

// ledgerFigures are those of sessions that take their stages one after the other,
// as runs do whose stages stand on each other, of the same stages all at once, and
// of the naive way. With 400 cycles under way a rate of 130 a second is a mean of
// three seconds whatever the ledger does, so only the first have a bar.
func ledgerFigures(l, burst, n load, wake time.Duration) []figure {
	return []figure{
		{what: "sessions, stages of each", got: fmt.Sprintf("%d, %d", ledgerSessions, ledgerStages)},
		atLeast("cycles a second: acquire, decide, published", int64(l.rate()), 130),
		seconds("a cycle, median", l.cycles.quantile(0.5), 0),
		seconds("a cycle, p99", l.cycles.quantile(0.99), 800*time.Millisecond),
		seconds("one of its three steps, p99", l.steps.quantile(0.99), 0),
		{what: "patches", got: fmt.Sprintf("%.0f /s", float64(l.patches)/l.took.Seconds())},
		{what: "patches that were refused", got: fmt.Sprint(l.refused)},
		{what: "changes in a patch", got: fmt.Sprintf("%.2f", float64(l.changes)/float64(l.patches))},
		{what: "requests in a cycle", got: fmt.Sprintf("%.2f", float64(l.requests)/float64(l.done()))},
		{what: "CPU of API server and etcd in a cycle", got: fmt.Sprintf("%.1f ms", l.server.Seconds()*1e3/float64(l.done()))},
		{what: "all stages at once: cycles a second", got: fmt.Sprintf("%.0f", burst.rate())},
		seconds("all stages at once: a cycle, p99", burst.cycles.quantile(0.99), 0),
		{what: "all stages at once: changes in a patch", got: fmt.Sprintf("%.2f", float64(burst.changes)/float64(burst.patches))},
		{what: "all stages at once: CPU of API server and etcd in a cycle", got: fmt.Sprintf("%.1f ms", burst.server.Seconds()*1e3/float64(burst.done()))},
		{what: "reading one ConfigMap and writing it back", got: fmt.Sprintf("%.1f /s", n.rate())},
		seconds("the same, a cycle, p99", n.cycles.quantile(0.99), 0),
		{what: "CPU of API server and etcd in such a cycle", got: fmt.Sprintf("%.1f ms", n.server.Seconds()*1e3/float64(n.done()))},
		seconds("from a publication until those who wait know, p99", wake, 100*time.Millisecond),
	}
}

// clusterYard is the cluster of the case.
type clusterYard struct {
	*bench
	cluster *testbed.Cluster
}

// space returns a namespace that is not there yet.
func (y *clusterYard) space() string {
	y.serial++
	return fmt.Sprintf("bench-%d", y.serial)
}

// user is the access of one more runner. What limits administrators is not what
// limits everybody, so none of them is one.
func (y *clusterYard) user(ctx context.Context, space string) (*rest.Config, error) {
	config, err := y.cluster.User("runner", "cairn-runners")
	if err != nil {
		return nil, err
	}
	text, err := kubernetes.Manifest{Namespace: space, Subjects: []kubernetes.Subject{{Kind: "Group", Name: "cairn-runners"}}}.Encode()
	if err != nil {
		return nil, err
	}
	return config, y.apply(ctx, text)
}

// cycles is one round of the ledger's load, in a ledger of its own.
func (y *clusterYard) cycles(ctx context.Context, work func(*ledgerRunner, context.Context, *meter) error) (l load, err error) {
	space := y.space()
	config, err := y.user(ctx, space)
	if err != nil {
		return l, err
	}
	m := &meter{}
	runners := make([]*ledgerRunner, ledgerSessions)
	for i := range runners {
		if runners[i], err = joinLedger(ctx, config, space, i, m); err != nil {
			return l, err
		}
	}
	l, err = y.measure(m, func() error {
		all, ctx := errgroup.WithContext(ctx)
		for _, r := range runners {
			all.Go(func() error { return work(r, ctx, m) })
		}
		return all.Wait()
	})
	for _, r := range runners {
		err = errors.Join(err, r.leave(ctx))
	}
	return l, err
}

// measure fills in what a load took.
func (y *clusterYard) measure(m *meter, do func() error) (load, error) {
	m.reset()
	before, err := y.cluster.CPU()
	if err != nil {
		return load{}, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return load{}, err
	}
	took := time.Since(began)
	after, err := y.cluster.CPU()
	return m.load(took, after-before), err
}

// ledgerRunner is one session with what it stands on.
type ledgerRunner struct {
	number  int
	backend *kubernetes.Backend
	ledger  *synchronization.Ledger
	session *synchronization.Session
}

func joinLedger(ctx context.Context, config *rest.Config, space string, number int, m *meter) (*ledgerRunner, error) {
	r := &ledgerRunner{number: number}
	// A dialer of its own, for client-go shares the connections of equal configurations.
	config = rest.CopyConfig(config)
	config.Dial = dialer().DialContext
	var err error
	r.backend, err = kubernetes.Open(ctx, kubernetes.Options{Config: config, Namespace: space, UserAgent: "cairn-bench", Now: time.Now})
	if err != nil {
		return nil, err
	}
	r.ledger, err = synchronization.Open(ctx, metered{r.backend, m}, "bench", synchronization.Options{
		Now: time.Now, Rand: rand.Reader, Holder: fmt.Sprintf("runner %d", number),
	})
	if err != nil {
		return nil, err
	}
	r.session, err = r.ledger.Join(ctx)
	return r, err
}

func (r *ledgerRunner) leave(ctx context.Context) error {
	err := r.session.Close(ctx)
	r.ledger.Close()
	return errors.Join(err, r.backend.Close())
}

// oneByOne takes the runner's stages through their cycles, one after the other.
func (r *ledgerRunner) oneByOne(ctx context.Context, m *meter) error {
	for n := range ledgerStages {
		if err := r.cycle(ctx, r.stage(n), m); err != nil {
			return err
		}
	}
	return nil
}

// atOnce takes them all through their cycles at the same time.
func (r *ledgerRunner) atOnce(ctx context.Context, m *meter) error {
	all, ctx := errgroup.WithContext(ctx)
	for n := range ledgerStages {
		all.Go(func() error { return r.cycle(ctx, r.stage(n), m) })
	}
	return all.Wait()
}

// stage is the runner's nth.
func (r *ledgerRunner) stage(n int) stages.Digest {
	return stages.Digest(sha256.Sum256(fmt.Appendf(nil, "%d %d", r.number, n)))
}

// cycle acquires a stage, decides it and publishes it.
func (r *ledgerRunner) cycle(ctx context.Context, d stages.Digest, m *meter) error {
	var c *synchronization.Claim
	began := time.Now()
	for _, step := range []func() error{
		func() error {
			got, err := r.session.TryAcquire(ctx, []stages.Digest{d})
			if err != nil {
				return err
			}
			if c = got.Claims[d]; c == nil {
				return fmt.Errorf("stage %s is held", d.Short())
			}
			return nil
		},
		func() error { return c.Decide(ctx, digest.FromBytes(d[:])) },
		func() error { return c.Published(ctx) },
	} {
		begin := time.Now()
		if err := step(); err != nil {
			return err
		}
		m.steps.add(time.Since(begin))
	}
	m.cycles.add(time.Since(began))
	return nil
}

// wakes returns the 99th percentile of how long after the beginning of a
// publication those who wait for it know.
func (y *clusterYard) wakes(ctx context.Context) (_ time.Duration, err error) {
	const waiters, rounds = 16, 20
	space := y.space()
	config, err := y.user(ctx, space)
	if err != nil {
		return 0, err
	}
	m := &meter{}
	runners := make([]*ledgerRunner, waiters+1)
	for i := range runners {
		if runners[i], err = joinLedger(ctx, config, space, i, m); err != nil {
			return 0, err
		}
	}
	for n := range rounds {
		d := stages.Digest(sha256.Sum256(fmt.Appendf(nil, "wake %d", n)))
		if err := wakeAll(ctx, runners[0], runners[1:], d, m); err != nil {
			return 0, err
		}
	}
	for _, r := range runners {
		err = errors.Join(err, r.leave(ctx))
	}
	return m.cycles.quantile(0.99), err
}

func wakeAll(ctx context.Context, owner *ledgerRunner, others []*ledgerRunner, d stages.Digest, m *meter) error {
	got, err := owner.session.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	if err := got.Claims[d].Decide(ctx, digest.FromBytes(d[:])); err != nil {
		return err
	}
	var published atomic.Int64
	var waiting sync.WaitGroup
	all, ctx := errgroup.WithContext(ctx)
	for _, r := range others {
		waiting.Add(1)
		var once sync.Once
		all.Go(func() error {
			err := r.session.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) { once.Do(waiting.Done) })
			m.cycles.add(time.Since(time.Unix(0, published.Load())))
			once.Do(waiting.Done) // where it failed before it told anything
			return err
		})
	}
	waiting.Wait()
	<-time.After(100 * time.Millisecond)   // for their watches to begin
	published.Store(time.Now().UnixNano()) // the write counts too
	return errors.Join(got.Claims[d].Published(ctx), all.Wait())
}

// metered counts what is asked of a ledger's store.
type metered struct {
	*kubernetes.Backend
	m *meter
}

// Swap implements lock.Cells.
func (c metered) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	snap, err := c.Backend.Swap(ctx, shard, changes)
	c.m.patches.Add(1)
	c.m.requests.Add(1)
	if err != nil {
		c.m.refused.Add(1)
		return snap, err
	}
	for _, change := range changes {
		if change.Old == nil || change.New == nil || *change.Old != *change.New {
			c.m.changes.Add(1)
		}
	}
	return snap, nil
}

// Read implements lock.Cells.
func (c metered) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	c.m.requests.Add(1)
	return c.Backend.Read(ctx, shards...)
}

// Now implements lock.Cells.
func (c metered) Now(ctx context.Context) (time.Time, error) {
	c.m.requests.Add(1)
	return c.Backend.Now(ctx)
}

// Records implements lock.Sessions.
func (c metered) Records(ctx context.Context, group string) ([]lock.Record, error) {
	c.m.requests.Add(1)
	return c.Backend.Records(ctx, group)
}
