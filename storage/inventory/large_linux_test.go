package inventory_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/mem"
)

const (
	largeBuilds = 2_000
	largeStages = 20_000 // ten for each build
	largeLayers = 15
)

// large is a storage with 2,000 builds of an image whose last ten stages change.
func large(t *testing.T) *counted {
	t.Helper()
	s := &counted{Storage: mem.New(mem.Options{LooseReferences: true})}
	per := largeStages / largeBuilds
	for b := range largeBuilds {
		var layers []ocispec.Descriptor
		for i := range largeLayers - per {
			layers = append(layers, blob(fmt.Sprint("base", i), 1e6))
		}
		var last storage.Manifest
		id := ""
		for i := range per {
			id = fmt.Sprint(b, ".", i)
			layers = append(layers, blob(id, 1e5))
			last = publish(t, s, stageTag(id), image(t, "config"+id, layers...))
		}
		publish(t, s, buildTag(id), index(t, member(last, "app", id, "amd64")))
	}
	publish(t, s, storage.ProjectTag, image(t, "marker"))
	return s
}

// heap is what is alive on the heap, in bytes; pools are emptied by the second collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// processorTime is what this process has had of processors: unlike the time that
// passes, it does not depend on what else the machine does.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	check(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestALargeStorageIsReadOnceAndRemembered(t *testing.T) {
	s := large(t)
	o := inventory.Options{Index: filepath.Join(t.TempDir(), "index"), Now: time.Unix(1e9, 0)}
	before := heap()
	first := read(t, s, o)
	all := largeStages + largeBuilds + 1
	if got := len(s.asked()); got != all || first.Fetched != all {
		t.Errorf("the first reading asked for %d manifests, want each of %d once", got, all)
	}
	grown := heap() - before
	if grown > 100<<20 {
		t.Errorf("the inventory takes %d MB", grown>>20)
	}
	began := processorTime(t)
	second := read(t, s, o)
	took := processorTime(t) - began
	if got := s.asked(); len(got) != 1 {
		t.Errorf("the second reading asked for %d manifests, want the marker alone", len(got))
	}
	if took > 5*time.Second {
		t.Errorf("the second reading took %v", took)
	}
	t.Logf("the second reading took %v of processor time; the inventory takes %d MB", took, grown>>20)
	same(t, second, first)
}
