package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// space is a network namespace whose loopback has nothing but what listens here.
// A runner in it finds the registry and the API server at their own addresses,
// and they are its proxies: it can reach nothing else.
type space struct {
	fd        int
	listeners []net.Listener
}

// newSpace makes a namespace and listens in it at the addresses.
func newSpace(ctx context.Context, addresses ...string) (s *space, err error) {
	s = &space{fd: -1}
	err = elsewhere(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bring loopback up: %w", err)
		}
		var lc net.ListenConfig
		for _, a := range addresses {
			l, err := lc.Listen(ctx, "tcp", a)
			if err != nil {
				return err
			}
			s.listeners = append(s.listeners, l)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// run calls f on a thread in the namespace: what f starts stays in it.
func (s *space) run(f func() error) error {
	return elsewhere(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// close gives the namespace up; it goes with the last process in it. Listeners
// are closed by the servers that have them.
func (s *space) close() error {
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// elsewhere calls f on a thread that may change its namespace, and brings the
// thread back.
func elsewhere(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and ends with its goroutine's end, unused by others.
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return errors.Join(err, unix.Close(home))
}

func loopbackUp() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("lo")
	if err == nil {
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, ifr)
	}
	return errors.Join(err, unix.Close(sock))
}
