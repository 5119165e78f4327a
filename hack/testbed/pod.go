package testbed

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// PodOptions say how a [Pod] behaves.
type PodOptions struct {
	// Run is the command of this machine that runs in place of the one that is
	// asked for; none has every request forbidden.
	Run []string
	// OnlySPDY refuses WebSocket, as old API servers and some proxies do.
	OnlySPDY bool
}

// Pod stands in for an API server with a kubelet and one pod: it speaks their
// protocols for "exec".
type Pod struct {
	opts   PodOptions
	server *httptest.Server

	mu    sync.Mutex
	asked []string
}

// NewPod starts a pod's server for a test, which ends it.
func NewPod(t T, opts PodOptions) *Pod {
	t.Helper()
	p := &Pod{opts: opts}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

// URL returns the address of the API server.
func (p *Pod) URL() string { return p.server.URL }

// Asked returns the requests so far: "METHOD PATH?QUERY".
func (p *Pod) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

// ServeHTTP implements [http.Handler]: WebSocket of version 5, and SPDY of version 4.
func (p *Pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery)
	p.mu.Unlock()
	webSocket := wsstream.IsWebSocketRequest(r)
	switch {
	case p.opts.Run == nil:
		http.Error(w, `pods "b" is forbidden`, http.StatusForbidden)
	case webSocket && p.opts.OnlySPDY:
		http.Error(w, "unable to upgrade the connection", http.StatusBadRequest)
	case webSocket:
		p.webSocket(w, r)
	default:
		p.spdy(w, r)
	}
}

func (p *Pod) webSocket(w http.ResponseWriter, r *http.Request) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {
		Binary: true,
		Channels: []wsstream.ChannelType{
			wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel,
		},
	}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	p.run(streams[0], streams[1], streams[2], streams[3])
}

func (p *Pod) spdy(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 4)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, sent <-chan struct{}) error {
		go func() {
			<-sent
			streams <- s
		}()
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	byType := map[string]httpstream.Stream{}
	for timeout := time.After(startLimit); len(byType) < 4; {
		select {
		case s := <-streams:
			byType[s.Headers().Get("streamType")] = s
		case <-timeout:
			return
		}
	}
	p.run(byType["stdin"], byType["stdout"], byType["stderr"], byType["error"])
}

// run runs the command and tells how it ended as a kubelet does.
func (p *Pod) run(stdin io.Reader, stdout, stderr, status io.WriteCloser) {
	cmd := exec.Command(p.opts.Run[0], p.opts.Run[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return // the connection ends without a status, which the client takes for an error
	}
	// A kubelet does not wait for the end of the input either.
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	said := map[string]any{"status": "Success"}
	if err := cmd.Run(); err != nil {
		said = map[string]any{
			"status": "Failure", "reason": "NonZeroExitCode", "message": err.Error(),
			"details": map[string]any{"causes": []map[string]any{{"reason": "ExitCode", "message": fmt.Sprint(cmd.ProcessState.ExitCode())}}},
		}
	}
	b, err := json.Marshal(said)
	if err == nil {
		_, err = status.Write(b)
	}
	if err != nil {
		return // the client has gone, which it may do at any time
	}
	// What was written is read to the end before the connection goes.
	for _, s := range []io.Closer{stdout, stderr, status} {
		_ = s.Close()
	}
}
