package wire

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/storage/local"
)

// oldLayer puts a layer into a cache that was last used two hours ago, and returns
// its path.
func oldLayer(t *testing.T, cache string) string {
	t.Helper()
	s, err := local.Open(t.Context(), filepath.Join(cache, hostcache.FetchedDir, "shop-0"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.WriteBlob(t.Context(), func(w io.Writer) error {
		_, err := io.WriteString(w, "layer")
		return err
	})
	then := time.Now().Add(-2 * time.Hour)
	if err = errors.Join(err, os.Chtimes(s.Path(d.Digest), then, then)); err != nil {
		t.Fatal(err)
	}
	return s.Path(d.Digest)
}

func TestABuildEvictsAtItsEndWhereTheVolumeIsTooFull(t *testing.T) {
	full := map[string]string{hostcache.VariableHigh: "1", hostcache.VariableLow: "1"}
	for _, tt := range []struct {
		name      string
		variables map[string]string
		// idle is a build that had nothing to do with the local cache, and busy one
		// beside another process's pass.
		idle, busy  bool
		goes, fails bool
		warnings    int
	}{
		{name: "above the high mark, where that is not enough", variables: full, goes: true, warnings: 1},
		{name: "below the high mark", variables: map[string]string{hostcache.VariableHigh: "100%"}},
		{name: "when it opened nothing", variables: full, idle: true},
		{name: "beside another pass", variables: full, busy: true},
		{name: "with a minimum age above that of the layer", variables: map[string]string{
			hostcache.VariableHigh: "1", hostcache.VariableLow: "1", hostcache.VariableMinAge: "3h",
		}, warnings: 1},
		{name: "with a variable that is wrong", variables: map[string]string{hostcache.VariableHigh: "much"}, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			layer := oldLayer(t, cache)
			if tt.busy {
				other := flock.New(filepath.Join(cache, "eviction.lock"))
				if ok, err := other.TryLock(); !ok || err != nil {
					t.Fatal(ok, err)
				}
				defer other.Close()
			}
			core, log := observer.New(zap.WarnLevel)
			st, err := NewStorages(Settings{Storage: Local, CacheDir: cache}, Host{
				Getenv: func(name string) string { return tt.variables[name] }, Now: time.Now, Log: zap.New(core),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			if !tt.idle {
				stages, err := st.Stages(t.Context(), "shop")
				if err == nil {
					_, err = st.Pad(t.Context(), "shop", stages)
				}
				if err = errors.Join(err, st.Release(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			if err := st.Relieve(t.Context()); (err != nil) != tt.fails {
				t.Errorf("it ends with %v", err)
			}
			if _, err := os.Stat(layer); errors.Is(err, os.ErrNotExist) != tt.goes {
				t.Errorf("of the layer is known %v", err)
			}
			if log.Len() != tt.warnings {
				t.Errorf("it warns with %v", log.All())
			}
		})
	}
}
