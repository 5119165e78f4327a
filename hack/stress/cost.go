package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// runnerSeconds returns the CPU time that all runners took that have ended, with
// what they started and waited for.
func (r *round) runnerSeconds() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := 0.0
	for _, p := range r.processes {
		if s := p.cmd.ProcessState; s != nil {
			total += s.UserTime().Seconds() + s.SystemTime().Seconds()
		}
	}
	return total
}

// engineSeconds returns the CPU time that the engines have taken since they
// began, with all that they ever ran: daemon, engine, runc and the commands.
func (r *round) engineSeconds() float64 {
	total := 0.0
	for _, h := range r.hosts {
		total += treeSeconds(h.engine.PID())
	}
	return total
}

// clockTicks is in how many parts of a second Linux tells times.
const clockTicks = 100

// treeSeconds returns the CPU time of a process, of those below it that run, and of
// those that they have waited for.
func treeSeconds(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // it has ended, and is in what its parent has waited for
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	total := 0.0
	for i := 11; i <= 14 && i < len(fields); i++ { // utime, stime, cutime, cstime
		n, _ := strconv.ParseFloat(fields[i], 64)
		total += n / clockTicks
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		children, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				total += treeSeconds(n)
			}
		}
	}
	return total
}
