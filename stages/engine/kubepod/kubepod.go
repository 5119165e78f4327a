// Package kubepod opens a stream to a BuildKit in a pod of a Kubernetes cluster:
// the API server runs "buildctl dial-stdio", or the same of cairnd, in the pod, as
// "kubectl exec" would, and passes on its standard streams.
package kubepod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Target is a container that has buildctl beside its BuildKit, or is cairnd's.
type Target struct {
	Namespace, Pod string
	// Container may be empty where the pod has one only, or a default.
	Container string
	// Program is "buildctl" or "cairnd".
	Program string
}

// Dial opens a stream. It returns before the API server has answered; what that
// says is the error of the first read. The stream ends with Close, not with ctx.
func Dial(ctx context.Context, config *rest.Config, t Target) (net.Conn, error) {
	exec, err := executor(config, t)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &stream{Conn: near, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		var said tail
		err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: far, Stdout: far, Stderr: &said})
		s.err = said.explain(t, err)
		_ = far.Close() // never fails
	}()
	return s, nil
}

// executor speaks WebSocket, and SPDY with API servers and proxies that do not.
func executor(config *rest.Config, t Target) (remotecommand.Executor, error) {
	url, err := execURL(config, t)
	if err != nil {
		return nil, err
	}
	websocket, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", url)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// execURL is put together by hand: the codec that knows the parameters of all
// requests brings all types of Kubernetes along, 15 MB of program.
func execURL(config *rest.Config, t Target) (*url.URL, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/api", &schema.GroupVersion{Version: "v1"}
	base, path, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	u := base.JoinPath(path, "namespaces", t.Namespace, "pods", t.Pod, "exec")
	q := url.Values{
		"command": {t.Program, "dial-stdio"},
		"stdin":   {"true"}, "stdout": {"true"}, "stderr": {"true"},
	}
	if t.Container != "" {
		q.Set("container", t.Container)
	}
	u.RawQuery = q.Encode()
	return u, nil
}

// stream is our end of the pipe to what runs in the pod.
type stream struct {
	net.Conn
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // before ended is closed
}

// Read implements [net.Conn]. At the end it says why that came.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		<-s.ended
		err = s.err
	}
	return n, err
}

// Close implements [net.Conn]. When it returns, nothing goes on.
func (s *stream) Close() error {
	s.cancel()
	err := s.Conn.Close()
	<-s.ended
	return err
}

// maxSaid is how much of a failed command's error output is kept, in bytes.
const maxSaid = 2 << 10

// tail keeps the end of what the command wrote to its error output.
type tail struct {
	mu   sync.Mutex
	last []byte
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	if over := len(t.last) - maxSaid; over > 0 {
		t.last = append([]byte(nil), t.last[over:]...)
	}
	return len(p), nil
}

// explain is the error of a stream that has ended: never nil, because nobody
// reads on behind the end.
func (t *tail) explain(target Target, err error) error {
	t.mu.Lock()
	said := strings.ToValidUTF8(string(bytes.TrimSpace(t.last)), "\uFFFD")
	t.mu.Unlock()
	switch {
	case err == nil:
		return io.EOF
	case said == "":
		return fmt.Errorf("%s dial-stdio in pod %s/%s: %w", target.Program, target.Namespace, target.Pod, err)
	default:
		return fmt.Errorf("%s dial-stdio in pod %s/%s: %w: %s", target.Program, target.Namespace, target.Pod, err, said)
	}
}
