package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// Blobs gives the engine the layers of a published image.
type Blobs interface {
	// Blob opens the blob that d describes. The reader gives an error instead of
	// bytes that do not belong to d.
	Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Image is a published image for one platform.
type Image struct {
	// Manifest describes the image manifest (not an index), Bytes are its bytes.
	Manifest ocispec.Descriptor
	Bytes    []byte
	// Config holds the bytes of the config that the manifest names.
	Config []byte
	// Blobs opens the layers that the manifest names. The engine asks only for
	// those that it does not have.
	Blobs Blobs
}

// manifest parses the manifest after a check that it is what it claims to be.
func (i *Image) manifest() (*ocispec.Manifest, error) {
	if got := digest.FromBytes(i.Bytes); got != i.Manifest.Digest {
		return nil, fmt.Errorf("manifest %s has the digest %s", i.Manifest.Digest, got)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(i.Bytes, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", i.Manifest.Digest, err)
	}
	if got := digest.FromBytes(i.Config); got != m.Config.Digest {
		return nil, fmt.Errorf("config %s of manifest %s has the digest %s", m.Config.Digest, i.Manifest.Digest, got)
	}
	return &m, nil
}

// Entry is one directory, file or symbolic link of a [Tree].
type Entry struct {
	// Path is absolute or relative to "/", slash-separated and clean.
	Path string
	// Mode holds the permission bits, and [fs.ModeDir] or [fs.ModeSymlink]; a
	// file has neither.
	Mode fs.FileMode
	// Link is the target of a symbolic link.
	Link string
	// Size is the length of a file in bytes.
	Size     int64
	UID, GID int
	// New says that a directory is not in the image yet. Where it is not said, the
	// engine takes care of one that may be there, which costs a step for each.
	New bool
}

// Tree holds files to be put in place before commands run.
type Tree interface {
	// Walk calls fn for every entry at its final path, in any order. A directory
	// that exists in the image already keeps its mode and owner; one on the way to
	// an entry that is no entry itself is made with mode 0755 for root. A directory
	// in the place of something else in the image makes the job fail.
	Walk(ctx context.Context, fn func(Entry) error) error
	// Open opens the file at the path of its entry. It is called from several
	// goroutines at once.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
}

// Copy takes files from another image.
type Copy struct {
	// From is the published source, or FromJob the job that made it on the same engine.
	From    *Image
	FromJob *Job
	// Add is the absolute path in the source: a file, or a directory whose
	// contents are taken. To is the absolute path that it gets.
	Add, To string
	// Include and Exclude are globs relative to Add.
	Include, Exclude []string
	// Chown gives all that is copied to UID and GID; else owners stay as they are.
	Chown    bool
	UID, GID int
}

// Job is one stage that only an engine can make: Commands, Copies or a Dockerfile.
//
// A job must not change once it was given to [Engine.Run]. It may be given to
// another engine after the first one was lost.
type Job struct {
	// Key is the stage digest. The engine finds an earlier result by it.
	Key string
	// Name is the job's name for people, for instance "backend/install".
	Name     string
	Platform stages.Platform
	// Parent is the published image to build upon, or After the job that made it
	// on this engine: its result is continued where it lies, published or not.
	// With neither the job begins from nothing.
	Parent *Image
	After  *Job
	// Commands run as root in "/" after Files are in place.
	Commands *stages.Commands
	// CacheScope says whose caches the mounts of Commands show: jobs that share it
	// share them. It is no part of the result.
	CacheScope string
	// Files are put in place first, with the time of the run; nil when there are none.
	// They form a layer of their own below that of the commands, unless there is none.
	Files Tree
	// Copies are made in this order and form one layer.
	Copies []Copy
	// Dockerfile is for [Engine.Build]. The job of a whole file has no Parent: the
	// bases are among those of the Dockerfile. That of a group has one, or goes on
	// After another group, unless it stands on a base.
	Dockerfile *Dockerfile
	// Env is the environment of the base image, as NAME=value.
	Env []string
}

func (j *Job) check() error {
	switch {
	case j.Dockerfile != nil:
		return j.Dockerfile.check(j)
	case j.Commands == nil && len(j.Copies) == 0:
		return errors.New("nothing to do: neither commands nor copies")
	case j.Commands != nil && len(j.Copies) > 0:
		return errors.New("commands and copies are two stages")
	case j.Parent != nil && j.After != nil:
		return errors.New("a published parent and a job to continue exclude each other")
	}
	for _, c := range j.Copies {
		if (c.From == nil) == (c.FromJob == nil) {
			return fmt.Errorf("copy of %s: want either a published source or a job", c.Add)
		}
	}
	return nil
}

// visit calls fn for the job and all that it is made from, each once.
func (j *Job) visit(seen map[*Job]bool, fn func(*Job) error) error {
	if j == nil || seen[j] {
		return nil
	}
	seen[j] = true
	if err := j.After.visit(seen, fn); err != nil {
		return err
	}
	for _, c := range j.Copies {
		if err := c.FromJob.visit(seen, fn); err != nil {
			return err
		}
	}
	if j.Dockerfile != nil {
		for _, u := range j.Dockerfile.Uses {
			if err := u.Job.visit(seen, fn); err != nil {
				return err
			}
		}
	}
	return fn(j)
}

// images returns the published images that the job itself needs.
func (j *Job) images() []*Image {
	var out []*Image
	if j.Parent != nil {
		out = append(out, j.Parent)
	}
	for _, c := range j.Copies {
		if c.From != nil {
			out = append(out, c.From)
		}
	}
	if j.Dockerfile != nil {
		for _, base := range j.Dockerfile.Bases {
			out = append(out, base.Image)
		}
		for _, u := range j.Dockerfile.Uses {
			if u.Image != nil {
				out = append(out, u.Image)
			}
		}
	}
	return out
}

// Layer tells what the engine made.
type Layer struct {
	// Raw is the digest of the engine's own uncompressed layer. It names the
	// result when a later job's [Result.Below] is compared with it; it is not
	// the digest of what the caller makes of the stream.
	Raw digest.Digest
	// Size is the length of that layer in bytes.
	Size int64
}

// Result is what a job gave.
type Result struct {
	Layer Layer
	// Below are the digests of the uncompressed layers that the engine has below,
	// from the first on. When the job has Files, the last one is their layer. With
	// [Job.After], what stands before is exactly Below and Raw of that job, unless
	// the engine has lost and made it again meanwhile.
	Below []digest.Digest
	// Empty says that nothing was changed; the layer function was not called then.
	Empty bool
	// Cached says that the engine had the result already and ran nothing.
	Cached bool
}
