package kubernetes

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// testRights shows that no verb of the manifest is more than is needed; that they
// suffice, the suites show, which run with them alone.
func (y *yard) testRights(t *testing.T) {
	t.Parallel()
	t.Run("with all of them everything works", func(t *testing.T) {
		t.Parallel()
		if err := useAll(t.Context(), y.open(t, y.runner, y.space(t, Rules()))); err != nil {
			t.Fatal(err)
		}
	})
	for i, rule := range Rules() {
		for _, verb := range rule.Verbs {
			t.Run("without "+verb+" "+rule.Resource, func(t *testing.T) {
				t.Parallel()
				rules := Rules()
				rules[i].Verbs = slices.DeleteFunc(slices.Clone(rules[i].Verbs), func(v string) bool { return v == verb })
				if len(rules[i].Verbs) == 0 {
					rules = slices.Delete(rules, i, i+1)
				}
				err := useAll(t.Context(), y.open(t, y.runner, y.space(t, rules)))
				var denied *DeniedError
				if !errors.As(err, &denied) || denied.Request.Verb != verb || denied.Request.Resource != rule.Resource {
					t.Fatalf("got error %v", err)
				}
			})
		}
	}
}

// useAll makes every kind of request that a ledger makes.
func useAll(ctx context.Context, b *Backend) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := join(ctx, b, 0)
	if err != nil {
		return err
	}
	defer r.ledger.Close()
	if _, err := r.finish(ctx, stage(0), manifest(0)); err != nil {
		return err
	}
	if _, err := b.Watch(ctx, "cairn-suite.0"); err != nil {
		return err
	}
	// The record of one who died: renewed once, seen, and removed.
	dead := lock.Record{Session: "dead", Seq: 1, TTL: time.Second}
	if err := b.Renew(ctx, "cairn-suite", dead); err != nil {
		return err
	}
	dead.Seq = 2
	if err := b.Renew(ctx, "cairn-suite", dead); err != nil {
		return err
	}
	if _, err := b.Records(ctx, "cairn-suite"); err != nil {
		return err
	}
	if err := b.Remove(ctx, "cairn-suite", "dead", 2); err != nil {
		return err
	}
	if err := b.Warn(ctx, "cairn-suite.0", "Tested", "this was a test"); err != nil {
		return err
	}
	return r.session.Close(ctx)
}
