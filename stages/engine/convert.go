package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// conversion turns a Dockerfile, or the beginning of one, into a graph. Everything
// but the text is the same for all conversions of a job: so the operations that two of
// them have in common have the same digests.
type conversion struct {
	*Dockerfile
	context   llb.State
	arguments map[string]string
	// caches is what the ids of cache mounts begin with.
	caches string
}

// converted is the graph of a text and the config that it sets.
type converted struct {
	// def is nil for a result without files; its last operation has the result as
	// its only input.
	def    *pb.Definition
	config []byte
}

func (c *conversion) run(ctx context.Context, text []byte) (*converted, error) {
	opts, err := c.options()
	if err != nil {
		return nil, err
	}
	res, err := dockerfile2llb.Dockerfile2LLB(ctx, text, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Source.Path, err)
	}
	res.Image.RootFS.DiffIDs = nil
	out := &converted{}
	if out.config, err = json.Marshal(res.Image); err != nil {
		return nil, err
	}
	if res.State.Output() == nil {
		return out, nil
	}
	def, err := res.State.Marshal(ctx, platform(c.Source.Platform))
	if err != nil {
		return nil, err
	}
	out.def = def.ToPB()
	return out, nil
}

func (c *conversion) options() (dockerfile2llb.ConvertOpt, error) {
	target, caps := specOf(c.Source.Platform), pb.Caps.CapSet(pb.Caps.All())
	hosts, err := hostsOf(c.Recipe.AddHosts)
	if err != nil {
		return dockerfile2llb.ConvertOpt{}, err
	}
	o := dockerfile2llb.ConvertOpt{
		Config: dockerui.Config{
			BuildArgs:        maps.Clone(c.arguments), // the frontend changes them
			CacheIDNamespace: c.caches,
			ExtraHosts:       hosts,
			NetworkMode:      network(c.Recipe.Network),
			Target:           c.Source.Target,
		},
		MainContext:    &c.context,
		SourceMap:      llb.NewSourceMap(nil, c.Source.Path, "Dockerfile", c.Source.Text),
		TargetPlatform: &target,
		MetaResolver:   resolver{c.Dockerfile},
		LLBCaps:        &caps,
	}
	o.BuildPlatforms = []ocispec.Platform{specOf(c.Source.BuildPlatform)}
	return o, nil
}

// upTo returns the first lines of a text.
func upTo(text []byte, lines int) []byte {
	end := 0
	for range lines {
		i := bytes.IndexByte(text[end:], '\n')
		if i < 0 {
			return text
		}
		end += i + 1
	}
	return text[:end]
}

// cachesOf is what the ids of a job's cache mounts begin with.
func cachesOf(j *Job) string {
	own := stages.Mount{}
	if j.Dockerfile.Caches != "" {
		own.ID = "group\x00" + j.Dockerfile.Caches
	}
	return cacheID(j, own)
}

// ImageConfig returns the config that a Dockerfile sets, without an engine. Layers are
// not in it. Of the bases those are needed that the target begins from.
func ImageConfig(ctx context.Context, d *Dockerfile) ([]byte, error) {
	c := &conversion{Dockerfile: d, context: llb.Scratch(), arguments: d.Source.Args}
	res, err := c.run(ctx, d.Source.Text)
	if err != nil {
		return nil, err
	}
	return res.config, nil
}

// arguments are the given ones, and the proxies that commands go through where the
// Dockerfile does not speak of them itself.
func (b *builder) arguments(d *Dockerfile) map[string]string {
	out := map[string]string{}
	if !d.Source.OwnProxy {
		for name, v := range map[string]string{
			"HTTP_PROXY": b.proxy.HTTPProxy, "HTTPS_PROXY": b.proxy.HTTPSProxy, "FTP_PROXY": b.proxy.FTPProxy,
			"NO_PROXY": b.proxy.NoProxy, "ALL_PROXY": b.proxy.AllProxy,
		} {
			if v != "" {
				out[name] = v
			}
		}
	}
	given := d.Source.Args
	if d.Source.Part == nil {
		given = d.Recipe.Args // those that something sees
	}
	maps.Copy(out, given)
	return out
}

func hostsOf(lines []string) ([]llb.HostIP, error) {
	var out []llb.HostIP
	for _, l := range lines {
		name, address, _ := strings.Cut(l, ":")
		ip := net.ParseIP(address)
		if ip == nil {
			return nil, fmt.Errorf("host %s: %q is no address", name, address)
		}
		out = append(out, llb.HostIP{Host: name, IP: ip})
	}
	return out, nil
}

func specOf(p stages.Platform) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: p.OS(), Architecture: p.Architecture(), Variant: p.Variant()})
}

// resolver tells the frontend about the bases.
type resolver struct{ d *Dockerfile }

// ResolveImageConfig implements [sourceresolver.ImageMetaResolver].
func (r resolver) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	want := specOf(r.d.Source.BuildPlatform)
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		want = platforms.Normalize(*opt.ImageOpt.Platform)
	}
	for _, base := range r.d.Bases {
		name, err := reference.ParseNormalizedNamed(base.Reference)
		if err != nil {
			return "", "", nil, err
		}
		if reference.TagNameOnly(name).String() == ref && platforms.Format(specOf(base.Platform)) == platforms.Format(want) {
			return ref, base.Image.Manifest.Digest, base.Image.Config, nil
		}
	}
	return "", "", nil, fmt.Errorf("the image %s for %s is not among those that the Dockerfile names", ref, platforms.Format(want))
}
