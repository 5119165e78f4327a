package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnbuild/cairn/hack/testbed"
)

const (
	// bigLayer is the size of the layers in MiB; none of it compresses.
	bigLayer = 2000
	// mostMemory is how large cairn may become, in bytes.
	mostMemory = 150 << 20
)

// memory builds upon a base whose layer cannot be mounted and has to be copied from
// another registry, and then a stage whose command leaves as much behind.
func memory(ctx context.Context, b *bench) (_ []figure, err error) {
	elsewhere, err := testbed.StartRegistry(ctx, testbed.RegistryOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, elsewhere.Stop()) }()
	b.say("making a base of %d MiB", bigLayer)
	big, err := elsewhere.PushBase(ctx, fmt.Sprintf("big-%d", bigLayer))
	if err != nil {
		return nil, err
	}
	small, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, c := range []struct{ name, what, config string }{
		{"copied", "a base layer that is copied from another registry", fmt.Sprintf("from: %s\ndocker: {USER: app}", big)},
		{"made", "a layer that a command has made", fmt.Sprintf("from: %s\nshell:\n  install: [head -c %d /dev/urandom > /big]", small, bigLayer<<20)},
	} {
		r, err := b.repository(ctx, "memory", true, text("cairn.yaml", fmt.Sprintf("project: memory-%s\nconfigVersion: 1\n---\nimage: app\n%s\n", c.name, c.config)))
		if err != nil {
			return nil, err
		}
		run, err := b.cairn(ctx, r.Dir, "memory-"+c.name+"/stages")
		if err != nil {
			return nil, err
		}
		b.say("%s: %.1f s, %d MiB of memory", c.what, run.Wall.Seconds(), run.RSS>>20)
		figures = append(figures,
			mebibytes("memory of cairn, "+c.what, run.RSS, mostMemory),
			atLeast("MiB uploaded", run.uploaded>>20, bigLayer),
			seconds("cairn build", run.Wall, 0))
	}
	return figures, nil
}
