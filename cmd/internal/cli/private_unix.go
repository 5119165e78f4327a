//go:build unix

package cli

import (
	"io/fs"
	"os"
	"syscall"
)

// onlyMine reports whether nobody but this user can get at what is in a directory.
func onlyMine(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid() && st.Mode().Perm()&0o077 == 0
}
