package daemonctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Protocol is the version of what cairn and the daemon say to each other. It
// changes when an older one of the two could misunderstand a newer one.
const Protocol = 1

// Exit codes of the daemon that its callers act upon.
const (
	// ExitFailure is any error.
	ExitFailure = 1
	// ExitUsage is a wrong command line.
	ExitUsage = 2
	// ExitRunning says that another daemon serves the state directory.
	ExitRunning = 3
)

// Paths of the requests that the daemon answers on its HTTP socket.
const (
	// StatusPath gives a [Status].
	StatusPath = "/status"
	// HoldPath, with POST, gives a [Status] and has the daemon stay for another idle timeout.
	// A daemon that is about to leave answers with 503.
	HoldPath = "/hold"
)

// Status is what a daemon tells about itself.
type Status struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
	PID      int    `json:"pid"`
	// EnginePID is 0 while no engine runs.
	EnginePID int `json:"enginePID"`
	// Ready says that the engine takes work.
	Ready bool `json:"ready"`
	// Restarts counts how often the engine was started again after it had died.
	Restarts int `json:"restarts"`
	// Connections are those to the BuildKit API that are open.
	Connections int       `json:"connections"`
	Since       time.Time `json:"since"`
	// IdleSeconds is how long there has been no connection; 0 with one.
	IdleSeconds float64 `json:"idleSeconds"`
	Socket      string  `json:"socket"`
	State       string  `json:"state"`
	// Volumes are those that it keeps from filling up; none before the first look.
	Volumes []VolumeStatus `json:"volumes,omitempty"`
	// Evicting says that it looks at them, or evicts, at the moment.
	Evicting bool `json:"evicting"`
	// Cleanups are the last scheduled cleanups, one of each project, and NextCleanup is
	// when the next begin; nil without a schedule.
	Cleanups    []CleanupStatus `json:"cleanups,omitempty"`
	NextCleanup *time.Time      `json:"nextCleanup,omitempty"`
}

// CleanupStatus is how a cleanup of a project's storage ended.
type CleanupStatus struct {
	Directory string `json:"directory"`
	// Storage is "" where the environment names it.
	Storage string    `json:"storage,omitempty"`
	EndedAt time.Time `json:"endedAt"`
	Seconds float64   `json:"seconds"`
	// Outcome is done, unread or failed; Line says it for people.
	Outcome string `json:"outcome"`
	Line    string `json:"line"`
}

// VolumeStatus is a volume with local state on it; sizes are bytes.
type VolumeStatus struct {
	// Volume is what of Cairn's is on it: cache, which includes the engine where
	// that is on the same volume, or engine.
	Volume string `json:"volume"`
	// Path is a directory on it.
	Path string `json:"path"`
	// Total is its capacity, Used what all data on it took at MeasuredAt.
	Total      int64     `json:"total"`
	Used       int64     `json:"used"`
	MeasuredAt time.Time `json:"measuredAt"`
	// High and Low are the marks.
	High int64 `json:"high"`
	Low  int64 `json:"low"`
	// LastPass is nil before the first.
	LastPass *PassStatus `json:"lastPass,omitempty"`
}

// PassStatus is what an eviction came to; sizes are bytes.
type PassStatus struct {
	EndedAt time.Time `json:"endedAt"`
	Seconds float64   `json:"seconds"`
	// Line says all of it for people.
	Line string `json:"line"`
	// Met says that the volume came down to the low mark.
	Met     bool  `json:"met"`
	Evicted int   `json:"evicted"`
	Freed   int64 `json:"freed"`
	// Ours is what the local cache took before, Foreign what other data took.
	Ours    int64 `json:"ours"`
	Foreign int64 `json:"foreign"`
	// Blocked is what could not be evicted.
	Blocked []BlockStatus `json:"blocked,omitempty"`
}

// BlockStatus is a reason that kept items from eviction.
type BlockStatus struct {
	Reason string `json:"reason"`
	Items  int    `json:"items"`
	Bytes  int64  `json:"bytes"`
}

// ErrNotRunning says that no daemon answers.
var ErrNotRunning = errors.New("no build daemon is running")

// ProtocolError says that the daemon that runs belongs to another version of Cairn.
type ProtocolError struct{ Running Status }

// Error implements error.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("the running build daemon %s (process %d) speaks protocol %d, this cairn speaks %d",
		e.Running.Version, e.Running.PID, e.Running.Protocol, Protocol)
}

// Hint says what to do.
func (e *ProtocolError) Hint() string {
	return fmt.Sprintf("end it with \"kill %d\" when no build uses it, or let it leave when idle", e.Running.PID)
}

// Ask returns the status of the daemon at p, or an error that wraps
// [ErrNotRunning] when none answers.
func Ask(ctx context.Context, p Paths) (Status, error) {
	return ask(ctx, p, http.MethodGet, StatusPath)
}

func ask(ctx context.Context, p Paths, method, path string) (Status, error) {
	var s Status
	res, err := send(ctx, p, method, path, nil)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		return s, fmt.Errorf("%w: it is about to leave", ErrNotRunning)
	default:
		return s, fmt.Errorf("build daemon: %s %s: %s", method, path, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("build daemon: %s: %w", path, err)
	}
	if s.Protocol != Protocol {
		return s, &ProtocolError{Running: s}
	}
	return s, nil
}

// send sends a request to the daemon's HTTP socket. The caller closes the answer's body.
func send(ctx context.Context, p Paths, method, path string, body io.Reader) (*http.Response, error) {
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", p.HTTP())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://cairnd"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	return res, nil
}
