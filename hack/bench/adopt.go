package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

// The case of adoption: one run builds the images, the others wait for each.
const (
	adoptImages  = 12
	adoptWaiters = 5
	// adoptBegin is when the first image is built, for the others to come to wait
	// for all of them; the next follow adoptPace later, each on its own.
	adoptBegin = 4 * time.Second
	adoptPace  = 400 * time.Millisecond
)

// adopt measures how long after a stage was published those who wait for it have
// adopted it, with programs as they run anywhere. All is timed by one clock, which is
// this process's: a publication counts from when a watch that no program knows of
// shows it, an adoption when its line arrives from the program's standard error.
func adopt(ctx context.Context, b *bench) (_ []figure, err error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	cluster, err := testbed.StartCluster(ctx, testbed.ClusterOptions{Optimized: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	y := &clusterYard{bench: b, cluster: cluster}
	var late times
	for i := range b.rounds {
		before := len(late.all)
		if err := y.adoptRound(ctx, base, &late); err != nil {
			return nil, err
		}
		b.say("round %d: %d adoptions, p99 of all so far %d ms", i+1, len(late.all)-before, late.quantile(0.99).Milliseconds())
	}
	return []figure{
		{what: "runs that wait, images that one more builds", got: fmt.Sprintf("%d, %d", adoptWaiters, adoptImages)},
		atLeast("adoptions that were waited for", int64(len(late.all)), 50),
		seconds("from publication to adoption, median", late.quantile(0.5), 0),
		seconds("from publication to adoption, p99", late.quantile(0.99), 100*time.Millisecond),
		seconds("from publication to adoption, longest", late.quantile(1), 0),
	}, nil
}

// adoptRound builds images that nobody has built before and adds how long after
// their publications they were adopted.
func (y *clusterYard) adoptRound(ctx context.Context, base string, late *times) (err error) {
	space := y.space()
	r, err := y.repository(ctx, space, true, text("cairn.yaml", adoptConfig(base, space)))
	if err != nil {
		return err
	}
	if _, err := y.user(ctx, space); err != nil { // it makes the namespace
		return err
	}
	seen, err := y.watchPublications(ctx, space)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seen.close()) }()
	args := []string{
		"--stages-storage", y.registry.Address() + "/" + space, "--parallel", fmt.Sprint(adoptImages),
		"--synchronization", "kubernetes://" + space + "?kubeconfig=" + y.cluster.Kubeconfig,
	}
	var report runner.Report
	home := y.path("home")
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() (err error) {
		report, err = y.adoptRun(ctx, home, r.Dir, nil, args)
		return err
	})
	if err := seen.await(ctx, adoptImages+1); err != nil { // and the base, which they share
		return errors.Join(err, all.Wait())
	}
	lines := make([]*lineClock, adoptWaiters)
	for i := range lines {
		lines[i] = &lineClock{}
		home := y.path("home")
		all.Go(func() error {
			_, err := y.adoptRun(ctx, home, r.Dir, lines[i], args)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return addAdoptions(late, report, seen.times(), lines)
}

// adoptRun builds on a machine of its own.
func (y *clusterYard) adoptRun(ctx context.Context, home, dir string, messages io.Writer, args []string) (_ runner.Report, err error) {
	m := runner.Machine{Home: home, Bin: filepath.Join(y.top, "bin")}
	if err := m.Make(); err != nil {
		return runner.Report{}, err
	}
	defer func() { err = errors.Join(err, m.Remove(context.WithoutCancel(ctx))) }()
	report, _, err := m.Build(ctx, dir, messages, args...)
	return report, err
}

// addAdoptions adds the adoptions of stages that were waited for when they were published.
func addAdoptions(late *times, report runner.Report, published map[string]time.Time, lines []*lineClock) error {
	for _, img := range report.Images {
		last := img.Stages[len(img.Stages)-1]
		at, ok := published[strings.TrimPrefix(last.Digest, "sha256:")]
		if !ok {
			return fmt.Errorf("the watch has not seen the publication of %s", img.Name)
		}
		label := img.Name + "/" + last.Name + " | "
		for _, l := range lines {
			waiting, adopted := l.first(label+"waiting"), l.first(label+"adopted")
			if waiting.IsZero() || !waiting.Before(at) {
				continue
			}
			if adopted.IsZero() {
				return fmt.Errorf("%s was waited for and not adopted:\n%s", img.Name, l)
			}
			late.add(adopted.Sub(at))
		}
	}
	return nil
}

// adoptConfig has images that take longer one after the other.
func adoptConfig(base, mark string) string {
	var d document
	d.line("project: adopt\nconfigVersion: 1")
	for i := range adoptImages {
		wait := adoptBegin + time.Duration(i)*adoptPace
		d.line("---\nimage: app%d\nfrom: %s\nshell:\n  install: [\"sleep %.1f; echo %s > /made\"]", i, base, wait.Seconds(), mark)
	}
	return d.String()
}

// lineClock knows when each line of a text arrived.
type lineClock struct {
	mu    sync.Mutex
	rest  []byte
	lines []timedLine
}

type timedLine struct {
	text string
	at   time.Time
}

// Write implements io.Writer.
func (c *lineClock) Write(b []byte) (int, error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, b...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		c.lines, c.rest = append(c.lines, timedLine{string(line), now}), rest
	}
}

// first returns when the first line that begins with prefix arrived, zero where none has.
func (c *lineClock) first(prefix string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if strings.HasPrefix(l.text, prefix) {
			return l.at
		}
	}
	return time.Time{}
}

// String returns the lines.
func (c *lineClock) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, l := range c.lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

// publications is a watch of a namespace's ConfigMaps by plain HTTP.
type publications struct {
	stop context.CancelFunc
	done chan error

	mu        sync.Mutex
	entries   map[string]bool      // stages that had an entry, by the hex of their digest
	published map[string]time.Time // when one was first seen to be published
	changed   chan struct{}        // has room for one
}

func (y *clusterYard) watchPublications(ctx context.Context, space string) (*publications, error) {
	config := y.cluster.Config()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	p := &publications{done: make(chan error, 1), entries: map[string]bool{}, published: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	ctx, p.stop = context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/api/v1/namespaces/"+space+"/configmaps?watch=1", nil)
	if err != nil {
		p.stop()
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		p.stop()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		p.stop()
		return nil, errors.Join(fmt.Errorf("watch: %s", resp.Status), resp.Body.Close())
	}
	go func() {
		defer resp.Body.Close()
		p.done <- p.read(resp.Body)
	}()
	return p, nil
}

// read takes events until the body ends.
func (p *publications) read(body io.Reader) error {
	lines := bufio.NewReader(body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		now := time.Now()
		var event struct {
			Object struct{ Data map[string]string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("read the watch: %w", err)
		}
		if err := p.note(event.Object.Data, now); err != nil {
			return err
		}
	}
}

func (p *publications) note(data map[string]string, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, value := range data {
		hex, is := strings.CutPrefix(key, "stage.")
		if !is {
			continue
		}
		var entry struct{ State string }
		if err := json.Unmarshal([]byte(value), &entry); err != nil {
			return fmt.Errorf("read the entry of %s: %w", hex, err)
		}
		p.entries[hex] = true
		if _, known := p.published[hex]; !known && entry.State == "published" {
			p.published[hex] = now
		}
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return nil
}

// await waits until that many stages have had an entry.
func (p *publications) await(ctx context.Context, stages int) error {
	for {
		p.mu.Lock()
		n := len(p.entries)
		p.mu.Unlock()
		if n >= stages {
			return nil
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *publications) times() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.published)
}

// close ends the watch; that it ended before is an error.
func (p *publications) close() error {
	p.stop()
	if err := <-p.done; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the watch ended: %w", err)
	}
	return nil
}
