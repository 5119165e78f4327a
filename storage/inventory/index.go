package inventory

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// The index is one file: a line with its version and the digest of the rest, then
// JSON in which each digest stands once and is else a number. It is written aside
// and renamed, so a reader sees the one or the other; of two processes that write
// at once the later wins, and what is lost costs requests and no more. A file that
// is not exactly what its first line says is thrown away.
const indexHeader = "cairn-inventory 1 "

// maxIndex bounds the file in bytes: about 400,000 stages.
const maxIndex = 256 << 20

// leftover is after how long a file that was written aside, and not renamed, is
// known to be that of a dead process.
const leftover = time.Hour

const asidePattern = ".inventory-"

// ErrIndex is wrapped by what is wrong with an index on disk.
var ErrIndex = errors.New("unreadable index of an inventory")

// record is what the index knows of a name.
type record struct {
	Digest         digest.Digest
	Seen, Modified time.Time
}

// catalogue is the index in memory.
type catalogue struct {
	names     map[string]record
	manifests map[digest.Digest]*Manifest
}

// add adds names and manifests, which replace what is there.
func (c *catalogue) add(names map[string]record, manifests map[digest.Digest]*Manifest) {
	if c.names == nil {
		c.names = make(map[string]record, len(names))
	}
	if c.manifests == nil {
		c.manifests = make(map[digest.Digest]*Manifest, len(manifests))
	}
	maps.Copy(c.names, names)
	maps.Copy(c.manifests, manifests)
}

// join adds what other knows beside c.
func (c *catalogue) join(other catalogue) {
	for tag, r := range other.names {
		if _, known := c.names[tag]; !known {
			c.names[tag] = r
		}
	}
	for d, m := range other.manifests {
		if c.manifests[d] == nil {
			c.manifests[d] = m
		}
	}
}

// indexFile is the JSON of an index. Numbers are places in Digests.
type indexFile struct {
	Storage   string          `json:"storage"`
	Digests   []digest.Digest `json:"digests"`
	Manifests []indexManifest `json:"manifests"`
	Names     []indexName     `json:"names"`
}

type indexManifest struct {
	Digest  int           `json:"d"`
	Size    int64         `json:"s"`
	Index   bool          `json:"i,omitempty"`
	Members []indexMember `json:"m,omitempty"`
	// Blobs are pairs of digest and size, the config first.
	Blobs []int64 `json:"b,omitempty"`
}

type indexMember struct {
	Digest   int           `json:"d"`
	Image    string        `json:"i,omitempty"`
	Stage    stages.Digest `json:"s,omitzero"`
	Platform string        `json:"p,omitempty"`
}

type indexName struct {
	Tag      string    `json:"t"`
	Digest   int       `json:"d"`
	Seen     time.Time `json:"s,omitzero"`
	Modified time.Time `json:"m,omitzero"`
}

// load reads the index at path. A missing one is empty; one that cannot be used is
// empty too, and the error, which wraps [ErrIndex], says why.
func load(path, address string) (catalogue, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return catalogue{}, nil
	}
	if err != nil {
		return catalogue{}, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err == nil {
		var c catalogue
		if c, err = decode(b, address); err == nil {
			return c, nil
		}
	}
	return catalogue{}, fmt.Errorf("%w %s: %w", ErrIndex, path, err)
}

// decode reads what encode wrote for the storage at address, and nothing else.
func decode(b []byte, address string) (catalogue, error) {
	if len(b) > maxIndex {
		return catalogue{}, fmt.Errorf("it has more than %d bytes", maxIndex)
	}
	head, body, _ := bytes.Cut(b, []byte("\n"))
	if want := indexHeader + digest.FromBytes(body).String(); string(head) != want {
		return catalogue{}, errors.New("it is damaged, or of another version")
	}
	var f indexFile
	if err := json.Unmarshal(body, &f); err != nil {
		return catalogue{}, err
	}
	if f.Storage != address {
		return catalogue{}, fmt.Errorf("it is that of %q", f.Storage)
	}
	return f.catalogue()
}

func (f *indexFile) catalogue() (catalogue, error) {
	for _, d := range f.Digests {
		if err := d.Validate(); err != nil {
			return catalogue{}, fmt.Errorf("digest %q: %w", d, err)
		}
	}
	c := catalogue{make(map[string]record, len(f.Names)), make(map[digest.Digest]*Manifest, len(f.Manifests))}
	for i := range f.Manifests {
		m, err := f.manifest(&f.Manifests[i])
		if err != nil {
			return catalogue{}, err
		}
		c.manifests[m.Digest] = m
	}
	for _, n := range f.Names {
		d, err := f.digest(int64(n.Digest))
		if err != nil {
			return catalogue{}, err
		}
		if storage.CheckTag(n.Tag) != nil || KindOf(n.Tag) == KindForeign || c.manifests[d] == nil {
			return catalogue{}, fmt.Errorf("name %q of %s", n.Tag, d)
		}
		c.names[n.Tag] = record{d, n.Seen, n.Modified}
	}
	return c, nil
}

func (f *indexFile) digest(i int64) (digest.Digest, error) {
	if i < 0 || i >= int64(len(f.Digests)) {
		return "", fmt.Errorf("digest number %d of %d", i, len(f.Digests))
	}
	return f.Digests[i], nil
}

func (f *indexFile) manifest(in *indexManifest) (*Manifest, error) {
	d, err := f.digest(int64(in.Digest))
	if err != nil {
		return nil, err
	}
	m := &Manifest{Digest: d, Size: in.Size, Index: in.Index}
	if in.Size < 0 || in.Size > storage.MaxManifest || in.Index != (len(in.Blobs) == 0) || len(in.Blobs)%2 != 0 {
		return nil, fmt.Errorf("manifest %s of %d bytes", d, in.Size)
	}
	for _, c := range in.Members {
		d, err := f.digest(int64(c.Digest))
		if err != nil {
			return nil, err
		}
		m.Members = append(m.Members, Member{d, c.Image, c.Stage, c.Platform})
	}
	for pair := range slices.Chunk(in.Blobs, 2) {
		d, err := f.digest(pair[0])
		if err != nil {
			return nil, err
		}
		b := Blob{d, pair[1]} // digests are checked once, not for each of their uses
		if err := b.checkSize(); err != nil {
			return nil, err
		}
		if m.Config.Digest == "" {
			m.Config = b
		} else {
			m.Layers = append(m.Layers, b)
		}
	}
	return m, nil
}

// encode is the inverse of decode; equal catalogues have equal encodings.
func (c catalogue) encode(address string) ([]byte, error) {
	f := indexFile{Storage: address}
	numbers := map[digest.Digest]int{}
	number := func(d digest.Digest) int {
		n, ok := numbers[d]
		if !ok {
			n = len(f.Digests)
			numbers[d], f.Digests = n, append(f.Digests, d)
		}
		return n
	}
	for _, d := range slices.Sorted(maps.Keys(c.manifests)) {
		m := c.manifests[d]
		out := indexManifest{Digest: number(d), Size: m.Size, Index: m.Index}
		for _, mm := range m.Members {
			out.Members = append(out.Members, indexMember{number(mm.Digest), mm.Image, mm.Stage, mm.Platform})
		}
		if !m.Index {
			out.Blobs = append(out.Blobs, int64(number(m.Config.Digest)), m.Config.Size)
		}
		for _, l := range m.Layers {
			out.Blobs = append(out.Blobs, int64(number(l.Digest)), l.Size)
		}
		f.Manifests = append(f.Manifests, out)
	}
	for _, tag := range slices.Sorted(maps.Keys(c.names)) {
		r := c.names[tag]
		f.Names = append(f.Names, indexName{tag, number(r.Digest), r.Seen.UTC(), r.Modified.UTC()})
	}
	body, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return append([]byte(indexHeader+digest.FromBytes(body).String()+"\n"), body...), nil
}

// save puts the index in the place of the one at path.
func (c catalogue) save(path, address string, now time.Time) error {
	b, err := c.encode(address)
	if err == nil && len(b) > maxIndex {
		err = fmt.Errorf("%d bytes are too many", len(b))
	}
	if err == nil {
		err = replace(path, b, now)
	}
	if err != nil {
		return fmt.Errorf("write the index %s: %w", path, err)
	}
	return nil
}

func replace(path string, b []byte, now time.Time) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	removeLeftovers(dir, now)
	f, err := os.CreateTemp(dir, asidePattern)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = cmp.Or(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// removeLeftovers removes what dead processes wrote aside. What cannot be removed
// does no harm.
func removeLeftovers(dir string, now time.Time) {
	left, _ := filepath.Glob(filepath.Join(dir, asidePattern+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && now.Sub(info.ModTime()) > leftover {
			_ = os.Remove(path)
		}
	}
}
