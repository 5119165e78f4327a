package build_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
)

// withSecret is an image of three sections, of which setup mounts a secret.
func withSecret() config.Image {
	img := config.Image{Name: "app", Shell: commands(stages.KindInstall, stages.KindBeforeSetup, stages.KindSetup)}
	s := img.Shell[stages.KindSetup]
	s.Mounts = []stages.Mount{
		{Type: stages.MountCache, ID: "npm", To: "/root/.npm", Sharing: stages.SharingShared},
		{Type: stages.MountSecret, ID: "token", Env: "TOKEN"},
	}
	img.Shell[stages.KindSetup] = s
	return img
}

// offers gives one secret.
func offers(id string) func(*build.Options) {
	return func(o *build.Options) {
		o.Offer = func(m stages.Mount) error {
			if m.ID == id {
				return nil
			}
			return &build.NotOfferedError{Mount: m}
		}
	}
}

func TestAMissingSecretFailsBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.planOf(noSources{}, nil, withSecret())
	for name, adjust := range map[string]func(*build.Options){"nothing is given": nil, "another one is given": offers("other")} {
		h := w.host()
		h.adjust = adjust
		_, err := h.run(t.Context(), p, nil)
		var refused *build.NotOfferedError
		var at *build.StageError
		if !errors.As(err, &refused) || refused.Mount.ID != "token" || !errors.As(err, &at) || at.Stage.Name() != "setup" {
			t.Errorf("%s: %v", name, err)
		}
		if n := h.opened.engine.Load() + h.opened.base.Load(); n != 0 {
			t.Errorf("%s: the engine or the base was opened", name)
		}
	}
	delete(w.log.shown, storage.ProjectTag)
	if len(w.log.shown) > 0 {
		t.Errorf("published: %v", w.log.shown)
	}
}

func TestASecretIsNeededOnlyWhereTheStageIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.planOf(noSources{}, nil, withSecret())
	h := w.host()
	h.adjust = offers("token")
	var scopes []string
	h.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
		scopes = append(scopes, job.CacheScope)
		return nil
	}
	_, err := h.run(t.Context(), p, nil)
	must(t, err)
	for _, s := range scopes {
		if s != "shop\x00registry.test/shop" {
			t.Errorf("caches belong to %q", s)
		}
	}
	without := w.host()
	rep, err := without.run(t.Context(), p, nil)
	must(t, err)
	if got := results(rep); got != "app/from=cached app/install=cached app/beforeSetup=cached app/setup=cached" {
		t.Errorf("without the secret: %s", got)
	}
}

func TestAKeptResultIsPublishedWithoutItsSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, withSecret())
		h := w.host()
		h.adjust = func(o *build.Options) {
			offers("token")(o)
			o.KeepLocal = true
		}
		l := &awayLedger{Backend: w.ledger, away: true}
		h.ledger = l
		_, err := h.run(t.Context(), p, nil)
		must(t, err)
		l.set(false)
		h.adjust = nil
		ran := h.engine.count()
		_, err = h.run(t.Context(), p, nil)
		must(t, err)
		if h.engine.count() != ran {
			t.Error("commands ran again")
		}
		w.sound()
	})
}
