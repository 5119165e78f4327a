package testbed

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Base makes one of the base images: "busybox", "toolchain", "bash" or "big-N" with N MiB.
func Base(ctx context.Context, what string) (v1.Image, error) {
	var mb int
	switch {
	case what == "busybox":
		return Busybox(ctx)
	case what == "toolchain":
		return Toolchain(ctx)
	case what == "bash":
		return Bash(ctx)
	case scans(what, "big-%d", &mb) && mb > 0 && mb < 10_000:
		return Big(ctx, mb)
	default:
		return nil, fmt.Errorf("no base image %q: want busybox, toolchain, bash or big-N", what)
	}
}

func scans(s, format string, v any) bool {
	n, err := fmt.Sscanf(s, format, v)
	return n == 1 && err == nil
}

// Push stores img in the registry as repository:latest and returns its reference by digest.
func (r *Registry) Push(ctx context.Context, repository string, img v1.Image, opts ...remote.Option) (string, error) {
	ref, err := name.ParseReference(r.address + "/" + repository + ":latest")
	if err != nil {
		return "", err
	}
	if t := r.client.Transport; t != nil {
		opts = append(opts, remote.WithTransport(t))
	}
	if err := remote.Write(ref, img, append(opts, remote.WithContext(ctx))...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	d, err := img.Digest()
	if err != nil {
		return "", err
	}
	return ref.Context().Digest(d.String()).String(), nil
}

// PushIndex stores an index with its images as repository:latest and returns its
// reference by tag.
func (r *Registry) PushIndex(ctx context.Context, repository string, index v1.ImageIndex) (string, error) {
	ref, err := name.ParseReference(r.address + "/" + repository + ":latest")
	if err != nil {
		return "", err
	}
	opts := []remote.Option{remote.WithContext(ctx)}
	if t := r.client.Transport; t != nil {
		opts = append(opts, remote.WithTransport(t))
	}
	if err := remote.WriteIndex(ref, index, opts...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref.String(), nil
}

// PushBase makes the base image that [Base] knows as what and stores it as
// base/WHAT:latest. It returns the reference by tag, ADDRESS/base/WHAT:latest.
func (r *Registry) PushBase(ctx context.Context, what string) (string, error) {
	img, err := Base(ctx, what)
	if err != nil {
		return "", err
	}
	if _, err := r.Push(ctx, "base/"+what, img); err != nil {
		return "", err
	}
	return r.address + "/base/" + what + ":latest", nil
}

// WriteLayout adds img to the OCI image layout in dir, which is made where
// there is none, under the given name.
func WriteLayout(dir, ref string, img v1.Image) error {
	p, err := layout.FromPath(dir)
	if err != nil {
		if p, err = layout.Write(dir, empty.Index); err != nil {
			return fmt.Errorf("make an image layout: %w", err)
		}
	}
	return p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref}))
}
