package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// maxTagFile bounds what is read of a tag's file; it has about 200 bytes.
const maxTagFile = 4 << 10

// maxMediaType is the longest media type that RFC 6838 allows, in bytes.
const maxMediaType = 255

// listedAtOnce is how many names of a directory are read in one go.
const listedAtOnce = 1024

// Name is a tag and what it names.
type Name struct {
	Tag string
	// Descriptor has media type, digest and size of the manifest.
	Descriptor ocispec.Descriptor
	// Used is when the tag was published or last given to [Storage.Touch].
	Used time.Time
}

// tagRecord is the contents of a tag's file.
type tagRecord struct {
	Tag       string        `json:"tag"`
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// hashedName begins the file names of tags that cannot be file names themselves;
// no tag begins with it.
const hashedName = "%"

// tagFile returns the file name of a tag. Tags differ by case, file names on many
// systems do not, so only tags in lower case are their own file names.
func tagFile(tag string) string {
	if strings.ToLower(tag) == tag {
		return tag
	}
	return hashedName + digest.FromString(tag).Encoded()
}

func (s *Storage) tagPath(tag string) string { return filepath.Join(s.dir, tagsDir, tagFile(tag)) }

func encodeTag(tag string, d ocispec.Descriptor) ([]byte, error) {
	return json.Marshal(tagRecord{Tag: tag, MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
}

// decodeTag reads a tag's file; what is none gives [storage.ErrCorrupt].
func decodeTag(b []byte) (tagRecord, error) {
	var r tagRecord
	err := json.Unmarshal(b, &r)
	if err == nil {
		err = storage.CheckTag(r.Tag)
	}
	if err == nil {
		err = checkRecord(r.descriptor())
	}
	if err != nil {
		// Not wrapped: the class of a damaged tag is decided here.
		return tagRecord{}, fmt.Errorf("%w: file of a tag: %s", storage.ErrCorrupt, err.Error())
	}
	return r, nil
}

// checkRecord reports whether d can be what a tag's file says.
func checkRecord(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > storage.MaxManifest {
		return fmt.Errorf("size %d", d.Size)
	}
	if len(d.MediaType) > maxMediaType {
		return fmt.Errorf("media type of %d bytes", len(d.MediaType))
	}
	return nil
}

func (r tagRecord) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size}
}

// readTag returns what tag names, without a look at the manifest.
func (s *Storage) readTag(tag string) (ocispec.Descriptor, error) {
	r, err := readTagFile(s.tagPath(tag))
	if err == nil && r.Tag != tag {
		err = fmt.Errorf("%w: file of tag %s names %s", storage.ErrCorrupt, tag, r.Tag)
	}
	return r.descriptor(), err
}

func readTagFile(path string) (tagRecord, error) {
	b, err := readFile(path, maxTagFile)
	if err != nil {
		return tagRecord{}, err
	}
	return decodeTag(b)
}

// Tags implements [storage.Lister].
func (s *Storage) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for file, err := range listDir(ctx, s.path(tagsDir)) {
			tag := file
			if err == nil && strings.HasPrefix(file, hashedName) {
				var r tagRecord
				r, err = readTagFile(filepath.Join(s.path(tagsDir), file))
				tag = r.Tag
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since it was listed
			}
			if err != nil {
				yield("", s.fail("list tags", "", err))
				return
			}
			if !yield(tag, nil) {
				return
			}
		}
	}
}

// Names yields all tags with what they name and when they were last used, in no
// particular order. It ends with the first error of the directory; a tag whose
// file is unreadable is yielded with its name where known, with an error, and the
// iteration goes on.
func (s *Storage) Names(ctx context.Context) iter.Seq2[Name, error] {
	return func(yield func(Name, error) bool) {
		for file, err := range listDir(ctx, s.path(tagsDir)) {
			if err != nil {
				yield(Name{}, s.fail("list names", "", err))
				return
			}
			n, err := s.name(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since it was listed
			}
			if err != nil {
				err = s.fail("list names", n.Tag, err)
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

func (s *Storage) name(file string) (Name, error) {
	path := filepath.Join(s.path(tagsDir), file)
	info, err := os.Stat(path)
	if err != nil {
		return Name{}, err
	}
	n := Name{Used: info.ModTime()}
	if !strings.HasPrefix(file, hashedName) {
		n.Tag = file
	}
	r, err := readTagFile(path)
	if err != nil {
		return n, err
	}
	n.Tag, n.Descriptor = r.Tag, r.descriptor()
	return n, nil
}

// listDir yields the names in a directory, a bounded number in memory.
func listDir(ctx context.Context, dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		d, err := os.Open(dir)
		if err != nil {
			yield("", err)
			return
		}
		defer d.Close()
		for {
			err := ctx.Err()
			var names []string
			if err == nil {
				names, err = d.Readdirnames(listedAtOnce)
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
		}
	}
}

// Touch marks tag as used now: a note for those who remove what was not used for
// long. Reading alone leaves no trace.
func (s *Storage) Touch(ctx context.Context, tag string) error {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckTag(tag)
	}
	if err == nil {
		err = touch(s.tagPath(tag))
	}
	if err != nil {
		return s.fail("touch", tag, err)
	}
	return nil
}

// LastUsed returns when tag was published or last given to [Storage.Touch].
func (s *Storage) LastUsed(ctx context.Context, tag string) (time.Time, error) {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckTag(tag)
	}
	var info fs.FileInfo
	if err == nil {
		info, err = os.Stat(s.tagPath(tag))
	}
	if err != nil {
		return time.Time{}, s.fail("look up the last use", tag, err)
	}
	return info.ModTime(), nil
}
