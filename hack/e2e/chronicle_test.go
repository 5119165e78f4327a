package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cairnbuild/cairn/hack/history"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
	synclocal "github.com/cairnbuild/cairn/synchronization/local"
)

// chronicle notes what is seen from outside while the builds of a project go on and it
// moves between places: what their ledgers say, which tags show what, and how the builds
// end. It is safe for concurrent use.
type chronicle struct {
	began time.Time

	mu    sync.Mutex
	h     history.History
	known map[string]uint64 // the revision of each object, by place
	shown map[string]string // what each tag showed, by place
	runs  int
}

// spot is a place as the chronicle looks at it.
type spot struct {
	name string
	// ledger reads objects of the ledger; it is nil while there is none.
	ledger func(ctx context.Context, objects []string) (map[string]lock.Snapshot, error)
	// tags returns what all tags show.
	tags func(ctx context.Context) (map[string]string, error)
}

func newChronicle(name string) *chronicle {
	return &chronicle{began: time.Now(), h: history.History{Name: name}, known: map[string]uint64{}, shown: map[string]string{}}
}

func (c *chronicle) now() time.Duration { return time.Since(c.began) }

func (c *chronicle) add(e history.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Begin == 0 {
		e.Begin = c.now()
	}
	if e.Finish == 0 {
		e.Finish = e.Begin
	}
	c.h.Events = append(c.h.Events, e)
}

// start notes that a build begins, and returns what notes its end.
func (c *chronicle) start() (end func(res result)) {
	c.mu.Lock()
	c.runs++
	name := fmt.Sprint("build ", c.runs)
	c.mu.Unlock()
	c.add(history.Event{Kind: history.Start, Runner: name})
	return func(res result) {
		e := history.Event{Kind: history.End, Runner: name, Exit: res.code, Report: &history.Report{Root: res.report.Root}}
		for _, img := range res.report.Images {
			for _, s := range img.Stages {
				st := history.Stage{Digest: strings.TrimPrefix(s.Digest, "sha256:")}
				if s.Manifest != nil {
					st.Manifest = *s.Manifest
				}
				e.Report.Stages = append(e.Report.Stages, st)
			}
		}
		if res.code != 0 {
			e.Note = res.stderr
		}
		c.add(e)
	}
}

// lookEvery is the pause between two looks of a chronicle.
const lookEvery = 50 * time.Millisecond

// watch looks at places again and again until the returned function is called, and
// then once more.
func (c *chronicle) watch(t *testing.T, project string, spots ...spot) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, s := range spots {
		all.Go(func() {
			tick := time.NewTicker(lookEvery)
			defer tick.Stop()
			for {
				if err := c.look(ctx, project, s); err != nil && ctx.Err() == nil {
					t.Errorf("look at %s: %v", s.name, err)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
		for _, s := range spots {
			if err := c.look(t.Context(), project, s); err != nil {
				t.Errorf("look at %s: %v", s.name, err)
			}
		}
	}
}

func (c *chronicle) look(ctx context.Context, project string, s spot) error {
	record := "cairn-" + project
	names := []string{record}
	for n := range synchronization.Shards {
		names = append(names, fmt.Sprintf("%s.%d", record, n))
	}
	begin := c.now()
	found, err := s.ledger(ctx, names)
	if err != nil {
		return err
	}
	finish := c.now()
	for _, name := range names {
		if snap, ok := found[name]; ok {
			c.noteObject(history.Event{Kind: history.LedgerRead, Place: s.name, Shard: name, Begin: begin, Finish: finish}, snap, name == record)
		}
	}
	tags, err := s.tags(ctx)
	for tag, shows := range tags {
		c.noteTag(s.name, tag, shows)
	}
	return err
}

// noteObject notes an object of a ledger when it has changed, and the record always.
func (c *chronicle) noteObject(e history.Event, snap lock.Snapshot, always bool) {
	key := e.Place + " " + e.Shard
	c.mu.Lock()
	changed := c.known[key] != snap.Revision
	if changed {
		c.known[key] = snap.Revision
		c.h.Revisions = append(c.h.Revisions, history.Revision{
			Place: e.Place, Shard: e.Shard, UID: snap.UID, Number: snap.Revision, Data: snap.Data,
		})
	}
	c.mu.Unlock()
	if changed || always {
		e.Revision, e.Status, e.Seen = snap.Revision, http.StatusOK, true
		c.add(e)
	}
}

// noteTag notes what a tag shows when it has not shown that before.
func (c *chronicle) noteTag(place, tag, shows string) {
	c.mu.Lock()
	changed := c.shown[place+" "+tag] != shows
	c.shown[place+" "+tag] = shows
	c.mu.Unlock()
	if changed {
		c.add(history.Event{Kind: history.TagRead, Place: place, Tag: tag, Digest: shows, Status: http.StatusOK, Seen: true})
	}
}

// closed ends the history with what is there, and returns it.
func (c *chronicle) closed() *history.History {
	for key, shows := range c.shown {
		place, tag, _ := strings.Cut(key, " ")
		c.add(history.Event{Kind: history.Final, Place: place, Tag: tag, Digest: shows})
	}
	return &c.h
}

// localSpot is the :local stages of a host.
func localSpot(t *testing.T, name, layout string) spot {
	t.Helper()
	var backend *synclocal.Backend
	t.Cleanup(func() {
		if backend != nil {
			if err := backend.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	dir := filepath.Join(layout, "ledger")
	return spot{name, func(ctx context.Context, objects []string) (map[string]lock.Snapshot, error) {
		if _, err := os.Stat(dir); err != nil {
			return nil, nil // not there yet
		}
		if backend == nil {
			var err error
			if backend, err = synclocal.Open(ctx, dir, synclocal.Options{Now: time.Now, Rand: strings.NewReader("")}); err != nil {
				return nil, err
			}
		}
		return backend.Read(ctx, objects...)
	}, func(context.Context) (map[string]string, error) {
		files, err := filepath.Glob(filepath.Join(layout, "tags", "*"))
		found := map[string]string{}
		for _, file := range files {
			var tag struct{ Tag, Digest string }
			b, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // one that is being written
			}
			if err == nil {
				err = json.Unmarshal(b, &tag)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			found[tag.Tag] = tag.Digest
		}
		return found, err
	}}
}

// clusterSpot is a repository with a ledger in a cluster.
func clusterSpot(t *testing.T, name, repository string, c *spaced) spot {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	backend, err := kubernetes.Open(t.Context(), kubernetes.Options{Config: config, Namespace: c.namespace, UserAgent: "chronicle", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	host, path, _ := strings.Cut(repository, "/")
	base := "http://" + host + "/v2/" + path
	return spot{name, func(ctx context.Context, objects []string) (map[string]lock.Snapshot, error) {
		return backend.Read(ctx, objects...)
	}, func(ctx context.Context) (map[string]string, error) { return repositoryTags(ctx, base) }}
}

// repositoryTags asks a registry what all tags of a repository show.
func repositoryTags(ctx context.Context, base string) (map[string]string, error) {
	ask := func(method, path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, base+path, http.NoBody)
		if err != nil {
			return nil, err
		}
		req.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex}
		return http.DefaultClient.Do(req)
	}
	resp, err := ask(http.MethodGet, "/tags/list")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil // nothing there yet
	}
	var list struct{ Tags []string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, tag := range list.Tags {
		resp, err := ask(http.MethodHead, "/manifests/"+tag)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			found[tag] = resp.Header.Get("Docker-Content-Digest")
		}
	}
	return found, nil
}
