package testbed

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Busybox returns a base image with Debian's statically linked busybox: a shell
// and the usual commands, users (root, www-data, app, nobody), /tmp, bin and
// lib as links into usr as distributions have them today, and /srv/www as a
// link to /data/www.
func Busybox(ctx context.Context) (v1.Image, error) {
	root, err := busyboxRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the busybox base: %w", err)
	}
	return image(root)
}

// Toolchain returns Busybox with make and a small C compiler, cc, that links
// static programs, which run in any image of the platform.
//
// It is made of Debian's packages tcc, make, musl-dev and libc6 as hack/setup
// downloads them; nothing of it is installed on the machine.
func Toolchain(ctx context.Context) (v1.Image, error) {
	root, err := busyboxRoot(ctx)
	if err == nil {
		err = addToolchain(ctx, root)
	}
	if err != nil {
		return nil, fmt.Errorf("make the toolchain base: %w", err)
	}
	return image(root)
}

// Bash returns Busybox with bash, for projects that a werf.yaml describes: their
// commands run with bash. It is made of Debian's package bash-static, as
// hack/setup downloads it.
func Bash(ctx context.Context) (v1.Image, error) {
	root, err := busyboxRoot(ctx)
	if err == nil {
		err = addPackages(ctx, root, []string{"bash-static"}, func(name string) bool { return name == "bin/bash-static" })
	}
	if err != nil {
		return nil, fmt.Errorf("make the bash base: %w", err)
	}
	root.symlink("usr/bin/bash", "bash-static")
	return image(root)
}

// Platforms returns an index of Busybox for linux/amd64 and for other platforms.
// In the images for those, only the config says so: the programs are the same.
func Platforms(ctx context.Context, others ...string) (v1.ImageIndex, error) {
	base, err := Busybox(ctx)
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range append([]string{"linux/amd64"}, others...) {
		p, err := v1.ParsePlatform(name)
		if err != nil {
			return nil, err
		}
		file, err := base.ConfigFile()
		if err != nil {
			return nil, err
		}
		file = file.DeepCopy()
		file.OS, file.Architecture, file.Variant = p.OS, p.Architecture, p.Variant
		img, err := mutate.ConfigFile(base, file)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	return index, nil
}

// Big returns Busybox with one more layer of mb files of a MiB each below
// /opt/big, which do not compress and are the same every time.
func Big(ctx context.Context, mb int) (v1.Image, error) {
	base, err := Busybox(ctx)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return bigLayer(mb), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, fmt.Errorf("make the base of %d MiB: %w", mb, err)
	}
	return mutate.AppendLayers(base, layer)
}

// image returns a one-layer image of root.
func image(root rootfs) (v1.Image, error) {
	archive, err := root.tar()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(opener(archive), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	file.Config.Cmd = []string{"/bin/sh"}
	return mutate.ConfigFile(img, file)
}

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`
	group = `root:x:0:
daemon:x:1:
www-data:x:33:
app:x:1000:
nogroup:x:65534:
`
)

func busyboxRoot(ctx context.Context) (rootfs, error) {
	path, err := program("busybox")
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's commands: %w", err)
	}
	root := rootfs{}
	for _, name := range strings.Fields(string(applets)) {
		root.symlink("usr/bin/"+name, "busybox")
	}
	root.file("usr/bin/busybox", 0o755, binary)
	for _, dir := range []string{"usr/sbin", "usr/lib", "usr/lib64", "root", "home/app", "proc", "sys", "dev", "run", "var/lib", "data/www"} {
		root.dir(dir, 0o755)
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		root.symlink(dir, "usr/"+dir)
	}
	root.symlink("srv/www", "/data/www")
	root.dir("tmp", 0o1777)
	root.dir("var/tmp", 0o1777)
	root.file("etc/passwd", 0o644, []byte(passwd))
	root.file("etc/group", 0o644, []byte(group))
	return root, nil
}

// cc links by hand because tcc knows glibc's files only, and static programs of
// glibc are large and warn about name services.
const cc = `#!/bin/sh
musl=/usr/lib/x86_64-linux-musl
tcc=/usr/lib/x86_64-linux-gnu/tcc
flags="-nostdinc -I/usr/include/x86_64-linux-musl -I$tcc/include"
for arg; do
	case $arg in -c | -E) exec tcc $flags "$@" ;; esac
done
exec tcc -static -nostdlib $flags $musl/crt1.o $musl/crti.o "$@" $musl/libc.a $tcc/libtcc1.a $musl/crtn.o
`

// addToolchain takes what compiling needs.
func addToolchain(ctx context.Context, root rootfs) error {
	root.file("usr/bin/cc", 0o755, []byte(cc))
	return addPackages(ctx, root, []string{"tcc", "make", "musl-dev", "libc6"}, partOfToolchain)
}

// addPackages unpacks Debian packages that hack/setup has downloaded and takes
// the files that part accepts, by their names in the package.
func addPackages(ctx context.Context, root rootfs, names []string, part func(name string) bool) error {
	top, err := Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cairn-packages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join(top, ".cache", "debs", name+"_*_amd64.deb"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("%w: the package %s in .cache/debs: run hack/setup, which downloads it", ErrMissing, name)
		}
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", found[0], dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", found[0], err, out)
		}
	}
	return root.tree(dir, func(name string) (string, bool) { return usrMerged(name), part(name) })
}

// partOfToolchain leaves out documentation, translations, debugging aids and
// the parts of glibc that neither tcc nor make loads.
func partOfToolchain(name string) bool {
	switch name {
	case "usr/bin/tcc", "usr/bin/make", "lib64/ld-linux-x86-64.so.2":
		return true
	}
	for _, prefix := range []string{"usr/include/x86_64-linux-musl/", "usr/lib/x86_64-linux-musl/", "usr/lib/x86_64-linux-gnu/tcc/"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	lib, ok := strings.CutPrefix(name, "lib/x86_64-linux-gnu/")
	if !ok {
		return false
	}
	switch lib {
	case "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2":
		return true
	default:
		return false
	}
}

// bigLayer streams the archive of [Big]'s layer. The caller closes it.
func bigLayer(mb int) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeBig(w, mb)) }()
	return r
}

func writeBig(w io.Writer, mb int) error {
	const mib = 1 << 20
	random := rand.NewChaCha8([32]byte{'b', 'i', 'g'})
	block := make([]byte, mib)
	archive := tar.NewWriter(w)
	for i := range mb {
		_, _ = random.Read(block) // never fails
		h := &tar.Header{Name: fmt.Sprintf("opt/big/%04d", i), Mode: 0o644, Typeflag: tar.TypeReg, Size: mib, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		if _, err := archive.Write(block); err != nil {
			return err
		}
	}
	return archive.Close()
}
