package testbed

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endWithParent has the kernel end the server when the test binary dies, by a
// panic or its time limit for instance, and cannot clean up.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// detach unmounts everything below a directory, given the lines of /proc/self/mounts.
func detach(mounts []byte, below string) []error {
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], below) {
			errs = append(errs, syscall.Unmount(f[1], syscall.MNT_DETACH))
		}
	}
	return errs
}

// Terminate asks a process that somebody else has started to end.
func Terminate(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }

// Ended reports whether a process is no more. One that this process has started
// stays as a zombie until it is asked for, which is done here.
func Ended(pid int) bool {
	_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // fails for other processes
	return syscall.Kill(pid, 0) != nil
}

// clockTick is the unit of times in /proc, which is the same on all architectures
// that Go knows: 100 ticks are a second.
const clockTick = 10 * time.Millisecond

// processorTime returns what a process has used, in user and kernel mode (proc(5)).
func processorTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything.
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	const user, system = 11, 12 // counted from the state, which follows the name
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	var ticks int64
	for _, field := range [][]byte{fields[user], fields[system]} {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
