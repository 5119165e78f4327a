package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/archive"
	"github.com/cairnbuild/cairn/storage/local"
)

// layoutScheme begins the address of a directory with an OCI image layout.
const layoutScheme = "oci:"

// end is one of the two storages of a copy. What copies gets the storage itself:
// it may be able to mount, which its interface does not tell.
type end struct {
	storage.Storage
	// address as it was given.
	address string
	layout  *local.Storage
	archive *archive.Archive
}

// CheckEnd refuses an address that no storage of a copy can have.
func (st *Storages) CheckEnd(flag, address string) error {
	for _, scheme := range []string{layoutScheme, archive.Scheme} {
		if path, ok := strings.CutPrefix(address, scheme); ok {
			return refuseEnd(flag, address, path != "")
		}
	}
	_, err := st.client.Open(address)
	return refuseEnd(flag, address, err == nil || address == Local)
}

func refuseEnd(flag, address string, ok bool) error {
	if ok {
		return nil
	}
	return &SettingError{flag, fmt.Errorf("%q is no address of a storage", address), "an address is HOST[:PORT]/PATH, :local, oci:DIRECTORY or oci-archive:FILE.tar"}
}

func below(scheme, address string) string {
	path, ok := strings.CutPrefix(address, scheme)
	if !ok {
		return ""
	}
	return path
}

// source opens a storage that is copied from. It makes none.
func (st *Storages) source(ctx context.Context, project, address string) (*end, error) {
	return st.end(ctx, project, address, false)
}

// target opens a storage that is copied to, and makes one on this host.
func (st *Storages) target(ctx context.Context, project, address string) (*end, error) {
	return st.end(ctx, project, address, true)
}

func (st *Storages) end(ctx context.Context, project, address string, create bool) (_ *end, err error) {
	e := &end{address: address}
	if file := below(archive.Scheme, address); file != "" {
		if create {
			e.archive, err = archive.Create(ctx, file)
		} else {
			e.archive, err = archive.Open(file)
		}
		e.Storage = e.archive
		return e, err
	}
	dir := below(layoutScheme, address)
	if address == Local {
		if dir, err = st.settings.stagesDir(st.host, project); err != nil {
			return nil, err
		}
	}
	if dir != "" {
		return e, st.openLayout(ctx, e, dir, create)
	}
	e.Storage, err = st.client.Open(address)
	return e, err
}

// openLayout opens a layout on this host, whose contents are held until Release
// unless it is a read-only source.
func (st *Storages) openLayout(ctx context.Context, e *end, dir string, create bool) error {
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); errors.Is(err, fs.ErrNotExist) && !create {
		return &storage.Error{Op: "open", Storage: e.address, Class: storage.ErrNotFound, Err: fmt.Errorf("there is no OCI image layout in %s", dir)}
	}
	l, err := local.Open(ctx, dir)
	if err != nil {
		return err
	}
	e.layout = l
	if !create && !l.Writable() {
		e.Storage = l // nothing can be noted there, and nobody here evicts from it
		return nil
	}
	e.Storage = st.hold(l)
	return nil
}

// complete ends what was written: an archive takes its place, the index of a
// layout follows its tags, for tools that read such.
func (e *end) complete(ctx context.Context) error {
	switch {
	case e.archive != nil:
		return e.archive.Commit(ctx)
	case e.layout != nil:
		return e.layout.WriteIndex(ctx)
	}
	return nil
}

func (e *end) close() error {
	if e.archive != nil {
		return e.archive.Close()
	}
	return nil
}

// same reports whether two ends are one storage, as far as that can be seen.
func (e *end) same(other *end) bool {
	if file, ok := e.file(); ok {
		theirs, ok := other.file()
		return ok && sameFile(file, theirs)
	}
	_, ok := other.file()
	return !ok && oneLoopback(e.Storage.Address()) == oneLoopback(other.Storage.Address())
}

// file returns the directory or file of a storage that is one of this host.
func (e *end) file() (string, bool) {
	if e.layout != nil {
		return e.layout.Dir(), true
	}
	path := below(archive.Scheme, e.address)
	return path, path != ""
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// oneLoopback returns the parsed address of a repository with one name for all of
// this host's loopback addresses.
func oneLoopback(address string) string {
	host, path, _ := strings.Cut(address, "/")
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
	}
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && ip.IsLoopback() {
		name = "localhost"
	}
	return net.JoinHostPort(name, port) + "/" + path
}
