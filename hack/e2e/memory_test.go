package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// mostMemory is how large cairn may become, in bytes, whatever the size of a layer.
const mostMemory = 150 << 20

// heavyLayer is the size of a layer in MiB that would not fit into it. The
// benchmarks do the same with one of 2,000 MiB.
const heavyLayer = 250

func TestALayerLargerThanTheMemoryThatCairnTakes(t *testing.T) {
	elsewhere := testbed.NewRegistry(t, testbed.RegistryOptions{})
	big, err := elsewhere.PushBase(t.Context(), fmt.Sprint("big-", heavyLayer))
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string]string{
		"is copied from another registry": "from: " + big + "\ndocker: {USER: app}",
		"is made by a command":            fmt.Sprintf("from: @REGISTRY@/base/busybox:latest\nshell:\n  install: [head -c %d /dev/urandom > /big]", heavyLayer<<20),
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, "-- cairn.yaml --\nproject: heavy\nconfigVersion: 1\n---\nimage: app\n"+image+"\n", shared.registry)
			b := newHost(t, 0).startBuild(t, p, storageOf(t, shared.registry, ""))
			peak := watchMemory(b.cmd.Process.Pid, b.done)
			rep := succeeded(t, b.wait(t))
			if got := <-peak; got == 0 || got > mostMemory {
				t.Errorf("cairn took %d MiB, at most %d do", got>>20, mostMemory>>20)
			}
			if rep.BytesPushed < heavyLayer<<20 {
				t.Errorf("only %d bytes were pushed", rep.BytesPushed)
			}
		})
	}
}

// watchMemory returns the largest size of a process, in bytes. The account that the
// kernel gives of one that has ended would begin with the size of this one.
func watchMemory(pid int, done <-chan struct{}) <-chan int64 {
	out := make(chan int64, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var peak int64
		for {
			peak = max(peak, highWater(pid))
			select {
			case <-tick.C:
			case <-done:
				out <- peak
				return
			}
		}
	}()
	return out
}

// highWater is 0 when the process has ended.
func highWater(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
