package kube

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/stages"
)

// Cluster is a cluster to look into.
type Cluster struct {
	// Name is that of its context.
	Name   string
	Config *rest.Config
}

// Query is what is looked for.
type Query struct {
	// Known reports whether a digest means anything in the storage: a stage's, that of
	// a manifest, the root of a build.
	Known func(stages.Digest) bool
	// Names are those of the storage, in this cluster or through mirrors:
	// "registry.example.com/shop".
	Names []string
	// UserAgent is what the API server's audit log shows.
	UserAgent string
	// PageSize is how many objects are asked for at once, at most: 0 means 500, and of
	// Secrets and ConfigMaps never more than 50. Pages that are too large are halved.
	PageSize int
	// Progress, if not nil, is told of resources that were read, by one goroutine at a
	// time.
	Progress func(done, total int)
}

const (
	defaultPage = 500
	// largePage is that of resources whose objects may each be as large as a cluster
	// lets them be: releases of Helm, and files.
	largePage = 50
	// readers is how many resources are read at the same time.
	readers = 4
	// restarts is how often a listing may begin anew because its pages expired.
	restarts = 3
)

// Read returns what the cluster mentions, in the order of the digests and tags, and
// what could not be read; the mentions are then those of the rest. The error is that
// of ctx.
func Read(ctx context.Context, c Cluster, q Query) ([]cleanup.Mention, []*Error, error) {
	if q.PageSize <= 0 {
		q.PageSize = defaultPage
	}
	api, err := newClient(c, q.UserAgent)
	if err != nil {
		return nil, []*Error{{Cluster: c.Name, Err: err}}, nil
	}
	defer api.http.CloseIdleConnections()
	all, failed := api.resources(ctx)
	r := &reader{api: api, query: q, finds: newFinds(c.Name, q), total: len(all), failed: failed}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, res := range all {
		g.Go(func() error {
			err := r.list(gctx, res)
			r.done(res, err)
			return gctx.Err()
		})
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(r.failed, func(a, b *Error) int { return strings.Compare(a.Resource, b.Resource) })
	return r.finds.mentions(), r.failed, nil
}

// reader reads one cluster.
type reader struct {
	api   *client
	query Query
	finds *finds

	mu          sync.Mutex
	read, total int
	failed      []*Error
}

func (r *reader) done(res resource, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && statusOf(err) != http.StatusNotFound && statusOf(err) != http.StatusMethodNotAllowed {
		// What is not found has gone, with all of its objects, since it was discovered.
		r.failed = append(r.failed, r.api.fail(res.name, err))
	}
	r.read++
	if r.query.Progress != nil {
		r.query.Progress(r.read, r.total)
	}
}

// page is a part of a listing.
type page struct {
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// helmReleases selects the only Secrets that are read.
const helmReleases = "type=helm.sh/release.v1"

func (r *reader) pageSize(res resource) int {
	if res.name == "secrets" || res.name == "configmaps" {
		return min(r.query.PageSize, largePage)
	}
	return r.query.PageSize
}

func (r *reader) list(ctx context.Context, res resource) error {
	size := r.pageSize(res)
	query := url.Values{"limit": {strconv.Itoa(size)}}
	if res.name == "secrets" {
		query.Set("fieldSelector", helmReleases)
	}
	again := restarts
	for {
		var p page
		err := r.api.get(ctx, res.path, query, &p)
		if statusOf(err) == http.StatusGone && again > 0 && query.Has("continue") {
			again-- // what was read stays found: it was in use a moment ago
			query.Del("continue")
			continue
		}
		if errors.Is(err, errTooLarge) && size > 1 {
			size /= 2
			query.Set("limit", strconv.Itoa(size))
			continue
		}
		if err != nil {
			return err
		}
		for _, item := range p.Items {
			if err := r.finds.object(res.kind, item); err != nil {
				return err
			}
		}
		if p.Metadata.Continue == "" {
			return nil
		}
		if query.Get("continue") == p.Metadata.Continue {
			return errors.New("the pages of the listing do not end")
		}
		query.Set("continue", p.Metadata.Continue)
	}
}
