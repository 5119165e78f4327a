package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/cairnbuild/cairn/lock"
)

// event is one of a watch, of which only the metadata is asked for.
type event struct {
	Type   string `json:"type"`
	Object struct {
		Metadata metadata `json:"metadata"`
	} `json:"object"`
}

// Types of events that are told apart.
const (
	eventBookmark = "BOOKMARK"
	eventError    = "ERROR"
)

// Watch implements [lock.Cells]. When the server ends a stream, as it does every
// few minutes, the watch goes on with the next one where this one ended. It is
// over, and the channel closed, when the server cannot say any more what happened
// since, or cannot be reached.
func (b *Backend) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	if err := errors.Join(ended(ctx), b.life.Err()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.life, cancel)
	stream, err := b.stream(ctx, shard, "")
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	w := &watch{shard: shard, wake: make(chan struct{}, 1)}
	b.watchers.Go(func() {
		defer close(w.wake)
		defer cancel()
		defer stop()
		for stream != nil {
			w.follow(stream)
			stream = b.resume(ctx, w)
		}
	})
	return w.wake, nil
}

// stream begins to watch a shard: after a revision, or with its present state.
func (b *Backend) stream(ctx context.Context, shard, revision string) (*http.Response, error) {
	c := configMaps("watch", "")
	c.accept = typeMetadata
	c.query = url.Values{
		"watch":               {"true"},
		"allowWatchBookmarks": {"true"},
		"fieldSelector":       {"metadata.name=" + shard},
	}
	if revision != "" {
		c.query.Set("resourceVersion", revision)
	}
	resp, err := b.send(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", shard, err)
	}
	return resp, nil
}

// watch is one call of Watch.
type watch struct {
	shard    string
	wake     chan struct{}
	revision string // up to which all events were seen; "" is unknown
	told     bool   // the last stream told something
}

// follow wakes for each event of a stream until it ends.
func (w *watch) follow(stream *http.Response) {
	defer stream.Body.Close()
	w.told = false
	for d := json.NewDecoder(stream.Body); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			return
		}
		if e.Type == eventError {
			w.revision = "" // too old a revision, mostly
			return
		}
		w.told = true
		w.revision = e.Object.Metadata.ResourceVersion
		if e.Type == eventBookmark {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// resume returns the stream that goes on where the last one ended, nil when there
// is none. A stream that told nothing is not followed by another, so a server
// that ends each one at once is not asked without end: who watches again paces it.
func (b *Backend) resume(ctx context.Context, w *watch) *http.Response {
	if w.revision == "" || !w.told || ctx.Err() != nil {
		return nil
	}
	stream, err := b.stream(ctx, w.shard, w.revision)
	if err != nil {
		return nil
	}
	return stream
}

var _ lock.Store = (*Backend)(nil)
