package daemon

import (
	"net"

	"golang.org/x/sys/unix"
)

// ownListener accepts connections of processes of one user, or of root, and
// closes all others. The modes of the socket and its directory say the same;
// this holds where a file system does not honour them.
type ownListener struct {
	net.Listener
	uid int
}

// Accept implements [net.Listener].
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, ok := peer(c); ok && (uid == l.uid || uid == 0) {
			return c, nil
		}
		_ = c.Close() // refused; there is nobody to tell
	}
}

// peer returns the user at the other end of a unix connection.
func peer(c net.Conn) (uid int, ok bool) {
	u, isUnix := c.(*net.UnixConn)
	if !isUnix {
		return 0, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid, ok = int(cred.Uid), true
		}
	})
	return uid, ok && err == nil
}
