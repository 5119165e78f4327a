//go:build unix

package source

import (
	"os"
	"strconv"
	"syscall"
)

// ownedByOther reports whether git takes the path for another user's: the owner
// is not the effective user and, for root, not the user behind sudo either.
func ownedByOther(path string) bool {
	st, err := os.Lstat(path)
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	euid := os.Geteuid()
	if int(sys.Uid) == euid {
		return false
	}
	if euid == 0 {
		if sudo, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && int(sys.Uid) == sudo {
			return false
		}
	}
	return true
}
