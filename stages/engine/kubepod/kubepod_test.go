package kubepod_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/cairnbuild/cairn/stages/engine/kubepod"
)

// The heartbeat of client-go learns of the end of its connection at its next beat.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

// pod stands in for an API server with a kubelet: it speaks their protocol, and
// runs a command of this machine in place of the one that is asked for.
type pod struct {
	t     *testing.T
	run   []string
	asked chan string
}

// ServeHTTP serves exec as WebSocket version 5.
func (p *pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case p.asked <- r.URL.Path + "?" + r.URL.RawQuery:
	default:
	}
	if p.run == nil {
		http.Error(w, `pods "b" is forbidden`, http.StatusForbidden)
		return
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {
		Binary: true,
		Channels: []wsstream.ChannelType{
			wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel,
		},
	}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer conn.Close()
	cmd := exec.Command(p.run[0], p.run[1:]...)
	cmd.Stdout, cmd.Stderr = streams[1], streams[2]
	stdin, err := cmd.StdinPipe()
	if err != nil {
		p.t.Error(err)
		return
	}
	// A kubelet does not wait for the end of the input either.
	go func() {
		_, _ = io.Copy(stdin, streams[0])
		_ = stdin.Close()
	}()
	status := map[string]any{"status": "Success"}
	if err := cmd.Run(); err != nil {
		status = map[string]any{
			"status": "Failure", "reason": "NonZeroExitCode", "message": err.Error(),
			"details": map[string]any{"causes": []map[string]any{{"reason": "ExitCode", "message": fmt.Sprint(cmd.ProcessState.ExitCode())}}},
		}
	}
	b, err := json.Marshal(status)
	if err == nil {
		_, err = streams[3].Write(b)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		p.t.Logf("the status did not get through: %v", err)
	}
}

// dial starts a pod that runs a command and opens a stream to it.
func dial(t *testing.T, run ...string) (net.Conn, chan string) {
	t.Helper()
	p := &pod{t: t, run: run, asked: make(chan string, 1)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	c, err := kubepod.Dial(t.Context(), &rest.Config{Host: server.URL + "/prefix"}, kubepod.Target{Namespace: "ci", Pod: "b", Container: "c"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, p.asked
}

func TestBytesGoToThePodAndBack(t *testing.T) {
	c, asked := dial(t, "cat")
	want := strings.Repeat("stone ", 50_000)
	go func() { _, _ = io.WriteString(c, want) }() // what is lost is missed below
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	const path = "/prefix/api/v1/namespaces/ci/pods/b/exec?command=buildctl&command=dial-stdio&container=c&stderr=true&stdin=true&stdout=true"
	if got := <-asked; got != path {
		t.Errorf("asked for %s", got)
	}
}

func TestTheEndOfTheCommandIsTheEndOfTheStream(t *testing.T) {
	c, _ := dial(t, "true")
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("error is %v", err)
	}
}

func TestAFailureInThePodIsTold(t *testing.T) {
	c, _ := dial(t, "sh", "-c", "echo no such socket >&2; exit 3")
	_, err := io.ReadAll(c)
	if err == nil || !strings.Contains(err.Error(), "pod ci/b") || !strings.Contains(err.Error(), "exit code 3: no such socket") {
		t.Errorf("error is %v", err)
	}
}

func TestARefusalOfTheServerIsTold(t *testing.T) {
	c, _ := dial(t)
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "pod ci/b") {
		t.Errorf("error is %v", err)
	}
}
