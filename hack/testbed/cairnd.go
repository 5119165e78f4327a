package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Compile builds packages of this source tree into the directory bin.
func Compile(ctx context.Context, bin string, packages ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", bin + "/"}, packages...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w: %s", packages, err, out)
	}
	return nil
}

// Cairnd is a build daemon whose commands use the network of the machine.
type Cairnd struct {
	dir  string
	bin  string
	proc *process
}

// CairndStatus is what "cairnd status" tells.
type CairndStatus struct {
	PID, EnginePID, Restarts int
	Ready                    bool
	Volumes                  []CairndVolume
}

// CairndVolume is a volume that a daemon keeps from filling up.
type CairndVolume struct {
	Volume string
	// LastPass is nil before the first.
	LastPass *struct {
		EndedAt time.Time
		Evicted int
	}
}

// AskCairnd returns the status of the daemon at a socket; there is an error where
// none runs.
func AskCairnd(ctx context.Context, bin, state, socket string) (CairndStatus, error) {
	var s CairndStatus
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "cairnd"), "status", "--state", state, "--socket", socket).Output()
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(out, &s)
	return s, err
}

// errNotReady: the daemon answers, its engine does not yet.
var errNotReady = errors.New("the engine is not ready")

// StartCairnd starts the daemon of the directory bin with its state in dir and
// waits until it takes work. The path of dir is short: below it is a socket.
func StartCairnd(ctx context.Context, bin, dir string) (*Cairnd, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &Cairnd{dir: dir, bin: bin}
	log, err := os.Create(filepath.Join(dir, "serve.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(bin, "cairnd"), "serve",
		"--state", dir, "--socket", d.socket(), "--idle-timeout", "0", "--network", "host")
	if d.proc, err = startProcess(cmd, log); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	err = d.proc.await(ctx, func(ctx context.Context) error {
		s, err := AskCairnd(ctx, bin, dir, d.socket())
		if err == nil && !s.Ready {
			err = errNotReady
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func (d *Cairnd) socket() string { return filepath.Join(d.dir, "r", "d.sock") }

// Address is what --engine takes.
func (d *Cairnd) Address() string { return "unix://" + d.socket() }

// PID returns the daemon's process; its engine is a child of that.
func (d *Cairnd) PID() int { return d.proc.cmd.Process.Pid }

// Stop ends the daemon with its engine.
func (d *Cairnd) Stop() error { return d.proc.stop(startLimit) }

// RemoveAll removes a tree in which an engine may have left mounts.
func RemoveAll(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	return errors.Join(append(detach(mounts, dir+"/"), os.RemoveAll(dir))...)
}
