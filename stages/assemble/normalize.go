package assemble

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// maxEntries bounds the entries of a layer that commands made.
const maxEntries = maxNodes

// Normalize rewrites an uncompressed layer so that it depends on what commands
// did and not on when and where they ran:
//
//   - times are whole seconds between 1970 and [Epoch]; there are no access and
//     change times;
//   - owners are numbers, without names;
//   - of extended attributes, those that belong to the machine (overlayfs's own,
//     SELinux labels) are left out;
//   - the tar format is the plainest that holds the entry.
//
// Order, whiteouts, hard links and device nodes stay. Engines write entries in
// the order of their paths. A layer that points outside of itself, is damaged
// or not complete gives an error that wraps [ErrLayer].
func Normalize(ctx context.Context, w io.Writer, raw io.Reader) error {
	n := newNormalizer(contextReader{ctx, raw})
	if err := n.next(); err != nil {
		return err
	}
	return n.writeTo(w)
}

// normalizer is an iterator over the entries of a layer, as they shall be.
type normalizer struct {
	in      *trailer
	tr      *tar.Reader
	entries int
	// pending is the entry to write next, whose content is next in tr; nil at the end.
	pending *tar.Header
}

func newNormalizer(raw io.Reader) *normalizer {
	in := &trailer{r: raw}
	return &normalizer{in: in, tr: tar.NewReader(in)}
}

// writeTo writes the pending entry and all that follow.
func (n *normalizer) writeTo(w io.Writer) error {
	tw := tar.NewWriter(w)
	for n.pending != nil {
		if err := tw.WriteHeader(n.pending); err != nil {
			return fmt.Errorf("entry %q: %w", n.pending.Name, err)
		}
		if _, err := io.Copy(tw, n.tr); err != nil {
			return tarError(err)
		}
		if err := n.next(); err != nil {
			return err
		}
	}
	return tw.Close()
}

// next fills pending.
func (n *normalizer) next() error {
	n.pending = nil
	for n.pending == nil {
		h, err := n.tr.Next()
		if errors.Is(err, io.EOF) {
			return n.in.finish()
		}
		if err != nil {
			return tarError(err)
		}
		if n.entries++; n.entries > maxEntries {
			return fmt.Errorf("%w: more than %d entries", ErrLayer, maxEntries)
		}
		if n.pending, err = normalHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// normalHeader returns the header that is written in the place of h, nil for none.
func normalHeader(h *tar.Header) (*tar.Header, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	p, err := inside(h.Name)
	if err != nil || p == "" {
		return nil, err
	}
	if !isID(h.Uid) || !isID(h.Gid) {
		return nil, fmt.Errorf("%w: %q belongs to %d:%d", ErrLayer, p, h.Uid, h.Gid)
	}
	out := &tar.Header{
		Typeflag: h.Typeflag, Name: p, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid,
		ModTime: time.Unix(min(max(h.ModTime.Unix(), 0), Epoch), 0).UTC(),
	}
	if out.PAXRecords, err = attributes(p, h.PAXRecords); err != nil {
		return nil, err
	}
	return out, normalType(out, h)
}

// normalType fills in what depends on the kind of entry.
func normalType(out, h *tar.Header) (err error) {
	switch h.Typeflag {
	case tar.TypeReg:
		out.Size = h.Size
	case tar.TypeDir:
		out.Name += "/"
	case tar.TypeSymlink:
		if out.Linkname = h.Linkname; len(out.Linkname) > maxPath {
			return fmt.Errorf("%w: a link target of %d bytes", ErrLayer, len(out.Linkname))
		}
	case tar.TypeLink:
		if out.Linkname, err = inside(h.Linkname); err == nil && out.Linkname == "" {
			err = fmt.Errorf("%w: %q is a hard link to the root", ErrLayer, out.Name)
		}
	case tar.TypeChar, tar.TypeBlock:
		if out.Devmajor, out.Devminor = h.Devmajor, h.Devminor; h.Devmajor < 0 || h.Devminor < 0 {
			err = fmt.Errorf("%w: %q is a device with a negative number", ErrLayer, out.Name)
		}
	case tar.TypeFifo:
	default:
		err = fmt.Errorf("%w: %q is an entry of type %q", ErrLayer, out.Name, h.Typeflag)
	}
	return err
}

// inside is contain for archives that have no reason to hold "..".
func inside(name string) (string, error) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("%w: the path %.100q leads out of it", ErrLayer, name)
	}
	return contain(name)
}

func isID(n int) bool { return n >= 0 && n < math.MaxUint32 }

const paxXattr = "SCHILY.xattr."

// attributes returns the records that hold extended attributes of the file.
func attributes(name string, records map[string]string) (map[string]string, error) {
	var out map[string]string
	for k, v := range records {
		if strings.HasPrefix(k, "GNU.sparse.") {
			// A few bytes of archive could stand for any number of zeros.
			return nil, fmt.Errorf("%w: %q is a sparse file", ErrLayer, name)
		}
		attr, ok := strings.CutPrefix(k, paxXattr)
		if !ok || isLocalAttribute(attr) {
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[k] = v
	}
	return out, nil
}

func isLocalAttribute(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || name == "security.selinux"
}

// tarEnd is how many zero bytes end an archive.
const tarEnd = 1024

// trailer notices an archive that was cut off: the reader of archives accepts
// one that ends between two entries.
type trailer struct {
	r     io.Reader
	zeros int // at the end of what was read, at most tarEnd
}

func (t *trailer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	end := p[max(0, n-tarEnd):n]
	if k := len(bytes.TrimRight(end, "\x00")); k > 0 {
		t.zeros = len(end) - k
	} else {
		t.zeros = min(t.zeros+n, tarEnd)
	}
	return n, err
}

// finish reads to the end and checks it.
func (t *trailer) finish() error {
	if _, err := io.Copy(io.Discard, t); err != nil {
		return err
	}
	if t.zeros < tarEnd {
		return fmt.Errorf("%w: the archive has no end", ErrLayer)
	}
	return nil
}
