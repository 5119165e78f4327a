package kubepod_test

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/stages/engine/kubepod"
)

// The heartbeat of client-go learns of the end of its connection at its next beat.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

// dial starts a pod that runs a command and opens a stream to it.
func dial(t *testing.T, opts testbed.PodOptions) (net.Conn, *testbed.Pod) {
	t.Helper()
	p := testbed.NewPod(t, opts)
	c, err := kubepod.Dial(t.Context(), &rest.Config{Host: p.URL() + "/prefix"}, kubepod.Target{Namespace: "ci", Pod: "b", Container: "c", Program: "cairnd"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, p
}

func command(run ...string) testbed.PodOptions { return testbed.PodOptions{Run: run} }

func TestBytesGoToThePodAndBack(t *testing.T) {
	const path = "/prefix/api/v1/namespaces/ci/pods/b/exec?command=cairnd&command=dial-stdio&container=c&stderr=true&stdin=true&stdout=true"
	for name, tt := range map[string]struct {
		onlySPDY bool
		asked    []string
	}{
		"by WebSocket": {false, []string{"GET " + path}},
		"by SPDY, where WebSocket does not get through": {true, []string{"GET " + path, "POST " + path}},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := dial(t, testbed.PodOptions{Run: []string{"cat"}, OnlySPDY: tt.onlySPDY})
			want := strings.Repeat("stone ", 50_000)
			go func() { _, _ = io.WriteString(c, want) }() // what is lost is missed below
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
			if got := p.Asked(); !slices.Equal(got, tt.asked) {
				t.Errorf("asked for %q", got)
			}
		})
	}
}

func TestTheEndOfTheCommandIsTheEndOfTheStream(t *testing.T) {
	c, _ := dial(t, command("true"))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("error is %v", err)
	}
}

func TestAFailureInThePodIsTold(t *testing.T) {
	c, _ := dial(t, command("sh", "-c", "echo no such socket >&2; exit 3"))
	_, err := io.ReadAll(c)
	if err == nil || !strings.Contains(err.Error(), "pod ci/b") || !strings.Contains(err.Error(), "exit code 3: no such socket") {
		t.Errorf("error is %v", err)
	}
}

func TestARefusalOfTheServerIsTold(t *testing.T) {
	c, _ := dial(t, testbed.PodOptions{})
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "pod ci/b") {
		t.Errorf("error is %v", err)
	}
}
