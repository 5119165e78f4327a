//go:build unix

package hostcache

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Measure returns the state of the volume that path is on, as df shows it: what
// is reserved for root counts neither as used nor as capacity.
func Measure(path string) (host.Volume, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return host.Volume{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := int64(st.Bsize)
	used := int64(st.Blocks-st.Bfree) * block
	return host.Volume{Total: used + int64(st.Bavail)*block, Used: used}, nil
}

// volumeOf returns what tells the volume of path from others.
func volumeOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprint(st.Dev), nil
}
