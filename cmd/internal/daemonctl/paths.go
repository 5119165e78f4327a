package daemonctl

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Paths are where a daemon keeps what it has and where it listens.
type Paths struct {
	// State is the directory of the engine's cache, logs and locks.
	State string
	// Socket is the unix socket on which the daemon serves the BuildKit API, in a
	// directory that belongs to its user alone.
	Socket string
}

// DefaultPaths returns the paths for a user: below /var/lib and /run for root,
// else below XDG_STATE_HOME and XDG_RUNTIME_DIR or what the XDG base directory
// specification has in their place. getenv is usually [os.Getenv].
func DefaultPaths(uid int, getenv func(string) string) Paths {
	if uid == 0 {
		return Paths{State: "/var/lib/cairn", Socket: "/run/cairn/cairnd.sock"}
	}
	state := getenv("XDG_STATE_HOME")
	if state == "" {
		state = filepath.Join(Home(getenv), ".local", "state")
	}
	p := Paths{State: filepath.Join(state, "cairn")}
	p.Socket = filepath.Join(p.State, "run", "cairnd.sock")
	if run := getenv("XDG_RUNTIME_DIR"); run != "" {
		p.Socket = filepath.Join(run, "cairn", "cairnd.sock")
	}
	return p
}

// Home returns the user's home directory, "" where none is known. Windows has it in
// USERPROFILE, and HOME only in shells that come from elsewhere.
func Home(getenv func(string) string) string {
	if home := getenv("HOME"); home != "" {
		return home
	}
	return getenv("USERPROFILE")
}

// ErrNoHome is returned where neither a directory was given nor a home is known.
var ErrNoHome = errors.New("HOME is not set: name a directory with --cache-dir and --state-dir")

// UserDir returns a directory of Cairn's for the user: the given one, or else one
// below the XDG base directory xdg, or else one below home.
func UserDir(given, xdg, home, below string) (string, error) {
	switch {
	case given != "":
		return filepath.Abs(given)
	case filepath.IsAbs(xdg):
		return filepath.Join(xdg, "cairn"), nil
	case filepath.IsAbs(home):
		return filepath.Join(home, below, "cairn"), nil
	default:
		return "", ErrNoHome
	}
}

// parentUser is where rootlesskit tells the user that it was started by.
const parentUser = "ROOTLESSKIT_PARENT_EUID"

// UserID returns the user that paths are for: the effective one, or the one that
// has become root in a namespace of rootlesskit. getenv is usually [os.Getenv].
func UserID(euid int, getenv func(string) string) int {
	if uid, err := strconv.Atoi(getenv(parentUser)); err == nil && euid == 0 {
		return uid
	}
	return euid
}

// maxSocketPath is how long the path of a unix socket may be on Linux, in bytes.
const maxSocketPath = 107

// PathError says that a daemon cannot live at its paths.
type PathError struct {
	Path string
	Err  error
	hint string
}

// Error implements error.
func (e *PathError) Error() string { return fmt.Sprintf("the build daemon's %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *PathError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *PathError) Hint() string { return e.hint }

// Check refuses paths that are too long for sockets with a [*PathError].
func (p Paths) Check() error {
	if longest := p.Engine(); len(longest) > maxSocketPath {
		return &PathError{
			longest, fmt.Errorf("the path of a socket may have %d bytes, it has %d", maxSocketPath, len(longest)),
			"name a directory with a shorter path with --state-dir",
		}
	}
	return nil
}

// Address returns the address of the BuildKit API.
func (p Paths) Address() string { return "unix://" + p.Socket }

// HTTP returns the path of the socket for health, metrics and status.
func (p Paths) HTTP() string { return p.sibling("http") }

// Engine returns the path of the socket between the daemon and its engine.
func (p Paths) Engine() string { return p.sibling("engine") }

// DaemonLog and EngineLog return the paths of the logs.
func (p Paths) DaemonLog() string { return filepath.Join(p.State, "cairnd.log") }

// EngineLog returns the path of the engine's log.
func (p Paths) EngineLog() string { return filepath.Join(p.State, "engine.log") }

// Lock returns the path of the file that the one daemon of a state directory holds locked.
func (p Paths) Lock() string { return filepath.Join(p.State, "cairnd.lock") }

// startLock is held by whoever starts a daemon.
func (p Paths) startLock() string { return filepath.Join(p.State, "start.lock") }

func (p Paths) sibling(name string) string {
	return strings.TrimSuffix(p.Socket, ".sock") + "." + name + ".sock"
}
