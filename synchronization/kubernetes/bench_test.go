package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// The load of the benchmarks: many runners, each with an image of several stages.
const (
	benchRunners = 50
	benchStages  = 8
	naiveLimit   = 10 * time.Second // it would take minutes otherwise
)

// counting counts the patches of a process.
type counting struct {
	*Backend
	patches, changes *atomic.Int64
}

// Swap implements lock.Cells.
func (c counting) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	c.patches.Add(1)
	for _, change := range changes {
		if change.Old == nil || change.New == nil || *change.Old != *change.New {
			c.changes.Add(1)
		}
	}
	return c.Backend.Swap(ctx, shard, changes)
}

// times collects how long something took.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (s *times) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

func (s *times) quantile(q float64) time.Duration {
	slices.Sort(s.all)
	return s.all[int(q*float64(len(s.all)-1))]
}

func (s *times) report(b *testing.B, name string) {
	b.ReportMetric(float64(s.quantile(0.5).Microseconds())/1e3, name+"-p50-ms")
	b.ReportMetric(float64(s.quantile(0.99).Microseconds())/1e3, name+"-p99-ms")
}

// BenchmarkCycles measures acquire, decide and the end of a stage, by 50 runners
// with 8 stages each, beside 50 runners who read one ConfigMap and write it back.
func BenchmarkCycles(b *testing.B) {
	y := newYard(b)
	b.Run("ledger", func(b *testing.B) {
		for round := range b.N {
			cycles(b, y, round)
		}
	})
	b.Run("naive", func(b *testing.B) {
		for range b.N {
			naive(b, y)
		}
	})
}

func cycles(b *testing.B, y *yard, round int) {
	space := y.space(b, Rules())
	var patches, changes atomic.Int64
	runners := make([]*runner, benchRunners)
	for i := range runners {
		backend := counting{y.open(b, y.runner, space), &patches, &changes}
		o := options(i)
		o.Request = lock.DefaultRequest // a test's would end requests that are only slow
		r, err := joinWith(b.Context(), backend, o)
		if err != nil {
			b.Fatal(err)
		}
		runners[i] = r
	}
	patches.Store(0)
	changes.Store(0)
	var took times
	began := time.Now()
	var wg sync.WaitGroup
	for i, r := range runners {
		wg.Go(func() {
			for n := range benchStages {
				begin := time.Now()
				if err := r.cycle(b.Context(), stage(round<<20|i<<8|n)); err != nil {
					b.Error(err)
				}
				took.add(time.Since(begin))
			}
		})
	}
	wg.Wait()
	all := time.Since(began).Seconds()
	b.ReportMetric(benchRunners*benchStages/all, "cycles/s")
	b.ReportMetric(float64(patches.Load())/all, "patches/s")
	b.ReportMetric(float64(changes.Load())/float64(patches.Load()), "changes/patch")
	took.report(b, "cycle")
	for _, r := range runners {
		if err := r.leave(b.Context()); err != nil {
			b.Error(err)
		}
	}
}

// cycle acquires a stage, decides it and gives it back.
func (r *runner) cycle(ctx context.Context, d stages.Digest) error {
	got, err := r.session.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	c := got.Claims[d]
	if c == nil {
		return fmt.Errorf("stage %s is held", d.Short())
	}
	if err := c.Decide(ctx, manifest(0)); err != nil {
		return err
	}
	return c.Published(ctx)
}

// naive does three writes a cycle, as the ledger does: read the one object, change
// a key, write it back, and again when somebody was faster.
func naive(b *testing.B, y *yard) {
	space := y.space(b, Rules())
	first := y.open(b, y.Config(), space)
	if _, err := first.Swap(b.Context(), "locks", []lock.Change{lock.Add("a", "1")}); err != nil {
		b.Fatal(err)
	}
	var took times
	var wg sync.WaitGroup
	began := time.Now()
	for i := range benchRunners {
		backend := y.open(b, y.Config(), space)
		wg.Go(func() {
			for n := 0; time.Since(began) < naiveLimit; n++ {
				begin := time.Now()
				for _, state := range []string{"building", "publishing", "published"} {
					if err := rewrite(b.Context(), backend, fmt.Sprintf("stage-%d-%d", i, n), state); err != nil {
						b.Error(err)
						return
					}
				}
				took.add(time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(len(took.all))/time.Since(began).Seconds(), "cycles/s")
	took.report(b, "cycle")
}

func rewrite(ctx context.Context, b *Backend, key, value string) error {
	for {
		var o map[string]any
		if err := b.do(ctx, configMaps("get", "locks"), &o); err != nil {
			return err
		}
		o["data"].(map[string]any)[key] = value
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		err = b.put(ctx, "locks", body)
		if !errors.Is(err, lock.ErrUnavailable) {
			return err
		}
		<-time.After(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
	}
}

// put is an update, which the backend itself never makes.
func (b *Backend) put(ctx context.Context, name string, body []byte) error {
	c := configMaps("get", name)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, b.url(c), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", typeJSON)
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	s := readStatus(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return c.refused(b.namespace, resp.StatusCode, s)
	}
	return nil
}

// BenchmarkWake measures how long after a publication those who wait for the stage
// know of it.
func BenchmarkWake(b *testing.B) {
	const waiters, rounds = 16, 20
	y := newYard(b)
	for range b.N {
		space := y.space(b, Rules())
		owner, err := join(b.Context(), y.open(b, y.runner, space), 0)
		if err != nil {
			b.Fatal(err)
		}
		var others []*runner
		for i := range waiters {
			r, err := join(b.Context(), y.open(b, y.runner, space), i+1)
			if err != nil {
				b.Fatal(err)
			}
			others = append(others, r)
		}
		var took times
		for n := range rounds {
			wakeAll(b, owner, others, stage(n), &took)
		}
		took.report(b, "wake")
		for _, r := range append(others, owner) {
			if err := r.leave(b.Context()); err != nil {
				b.Error(err)
			}
		}
	}
}

func wakeAll(b *testing.B, owner *runner, others []*runner, d stages.Digest, took *times) {
	ctx := b.Context()
	got, err := owner.session.TryAcquire(ctx, []stages.Digest{d})
	if err != nil || got.Claims[d] == nil {
		b.Fatal(err, got)
	}
	if err := got.Claims[d].Decide(ctx, manifest(0)); err != nil {
		b.Fatal(err)
	}
	var published atomic.Int64
	var waiting, done sync.WaitGroup
	for _, r := range others {
		waiting.Add(1)
		var once sync.Once
		done.Go(func() {
			err := r.session.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) { once.Do(waiting.Done) })
			if err != nil {
				b.Error(err)
			}
			took.add(time.Since(time.Unix(0, published.Load())))
		})
	}
	waiting.Wait()
	<-time.After(100 * time.Millisecond)   // for their watches to begin
	published.Store(time.Now().UnixNano()) // the write counts too
	if err := got.Claims[d].Published(ctx); err != nil {
		b.Error(err)
	}
	done.Wait()
}
