package hostcache

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Measure returns the state of the volume that path is on.
func Measure(path string) (host.Volume, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return host.Volume{}, err
	}
	var available, total, free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &available, &total, &free); err != nil {
		return host.Volume{}, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: path, Err: err}
	}
	return host.Volume{Total: int64(total), Used: int64(total - free)}, nil
}

// volumeOf returns what tells the volume of path from others.
func volumeOf(path string) (string, error) {
	abs, err := filepath.Abs(path)
	return filepath.VolumeName(abs), err
}
