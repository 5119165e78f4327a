package assemble

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, name, string(got), string(want))
}

func fullConfig() *stages.Config {
	return &stages.Config{
		Cmd: []string{"serve", "<all>"}, Entrypoint: []string{"/app/run"}, Env: map[string]string{"B": "2", "A": "1"},
		Expose: []string{"8080"}, Healthcheck: &stages.Healthcheck{Test: []string{"CMD", "true"}, Interval: 1e9},
		Labels: map[string]string{"org.example": "yes"}, StopSignal: "SIGINT", User: "app", Volumes: []string{"/data"}, WorkDir: "/app",
	}
}

func TestManifestsArePinned(t *testing.T) {
	b := newBlobs()
	scratch := Scratch("linux/arm/v7")
	golden(t, "scratch.manifest.json", scratch.Manifest().Bytes)
	golden(t, "scratch.config.json", scratch.ConfigBlob())
	i, err := imageOf(t, b, archive(t, "app/", "lib->usr/lib", testPasswd), archive(t, "app/run=x")).Append(nil, fullConfig())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.manifest.json", i.Manifest().Bytes)
	golden(t, "full.config.json", i.ConfigBlob())
}

func TestEqualLayersAndConfigAreEqualHoweverTheyCameTogether(t *testing.T) {
	b := newBlobs()
	one, two := archive(t, "a/"), archive(t, "a/.wh.x", "a/b=c")
	at := func(steps ...func(*Image) *Image) digest.Digest {
		i := Scratch(amd64)
		for _, s := range steps {
			i = s(i)
		}
		return i.Manifest().Descriptor.Digest
	}
	layer := func(raws ...[]byte) func(*Image) *Image {
		return func(i *Image) *Image { return must(i.Append(layersOf(t, b, raws...), nil)) }
	}
	config := func(i *Image) *Image { return must(i.Append(nil, fullConfig())) }
	twice := func(i *Image) *Image { return config(config(i)) }
	generation := func(i *Image) *Image { return i.WithGeneration("1") }
	reload := func(i *Image) *Image { return must(Load(t.Context(), b, i.Manifest())) }
	want := at(layer(one, two), config)
	equal(t, "one after the other", at(layer(one), layer(two), config), want)
	equal(t, "config first", at(config, layer(one, two)), want)
	equal(t, "config twice", at(layer(one, two), twice), want)
	equal(t, "upon a generation", at(layer(one), generation, layer(two), config), want)
	equal(t, "upon a published stage", at(layer(one), reload, layer(two), config), want)
	if at(layer(two, one), config) == want {
		t.Error("the order of layers makes no difference")
	}
}

func must(i *Image, err error) *Image {
	if err != nil {
		panic(err)
	}
	return i
}

func layersOf(t *testing.T, b *blobs, raws ...[]byte) (out []Layer) {
	t.Helper()
	for _, raw := range raws {
		l, err := CommandLayer(t.Context(), b, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *l)
	}
	return out
}

func TestAGenerationIsAnotherManifestOfTheSameImage(t *testing.T) {
	i := must(Scratch(amd64).Append(nil, fullConfig()))
	g := i.WithGeneration("2")
	if g.Manifest().Descriptor.Digest == i.Manifest().Descriptor.Digest || g.WithGeneration("3").Manifest().Descriptor.Digest == g.Manifest().Descriptor.Digest {
		t.Error("the digest is the same")
	}
	equal(t, "config", string(g.ConfigBlob()), string(i.ConfigBlob()))
	equal(t, "digest without it", g.WithGeneration("").Manifest().Descriptor.Digest, i.Manifest().Descriptor.Digest)
}

func TestStandsOn(t *testing.T) {
	b := newBlobs()
	parent := imageOf(t, b, archive(t, "a/"))
	child := must(parent.Append(layersOf(t, b, archive(t, "b/")), nil))
	other := imageOf(t, b, archive(t, "c/"), archive(t, "b/"))
	equal(t, "a child", child.StandsOn(parent), true)
	equal(t, "itself", parent.StandsOn(parent), true)
	equal(t, "nothing", parent.StandsOn(Scratch(amd64)), true)
	equal(t, "the child's child", parent.StandsOn(child), false)
	equal(t, "another", other.StandsOn(parent), false)
}

func TestLoadTakesNoRequestForWhatTheManifestHolds(t *testing.T) {
	b := newBlobs()
	i := must(imageOf(t, b, archive(t, "a/")).Append(nil, fullConfig()))
	got := must(Load(t.Context(), b, i.Manifest()))
	tables, err := got.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "a directory is known", tables.IsDir("a"), true)
	equal(t, "blobs read", b.opened, 0)
	equal(t, "manifest", string(got.Manifest().Bytes), string(i.Manifest().Bytes))
	equal(t, "config", string(got.ConfigBlob()), string(i.ConfigBlob()))
	equal(t, "user", got.Config().Config.User, "app")
}

func TestALargeConfigIsABlobOfItsOwn(t *testing.T) {
	b := newBlobs()
	i := must(Scratch(amd64).Append(nil, &stages.Config{Labels: map[string]string{"large": strings.Repeat("x", maxInline)}}))
	b.add(i.ConfigBlob())
	got := must(Load(t.Context(), b, i.Manifest()))
	equal(t, "blobs read", b.opened, 1)
	equal(t, "config", string(got.ConfigBlob()), string(i.ConfigBlob()))
	clear(b.content)
	if _, err := Load(t.Context(), b, i.Manifest()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// withoutTables returns i as another tool, or a later version, would publish it.
func withoutTables(t *testing.T, i *Image, note string) storage.Manifest {
	t.Helper()
	m, err := i.Manifest().Image()
	if err != nil {
		t.Fatal(err)
	}
	m.Annotations = map[string]string{AnnotationTables: note}
	out, err := storage.NewManifest(ocispec.MediaTypeImageManifest, m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTablesAreReadOffTheLayersOnceWhereTheManifestHasNone(t *testing.T) {
	for name, note := range map[string]string{"none": "", "a later version": "2:abc", "damaged": "1:abc"} {
		t.Run(name, func(t *testing.T) {
			b := newBlobs()
			i := imageOf(t, b, archive(t, "a/", "b/"), archive(t, ".wh.b"))
			got := must(Load(t.Context(), b, withoutTables(t, i, note)))
			equal(t, "blobs read by loading", b.opened, 0)
			child := must(got.Append(layersOf(t, b, archive(t, "c/")), nil))
			equal(t, "blobs read by appending", b.opened, 0)
			for range 2 {
				tables, err := child.Tables(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				equalLines(t, "directories", directories(tables), "a", "c")
			}
			if _, err := got.Tables(t.Context()); err != nil {
				t.Fatal(err)
			}
			equal(t, "blobs read in all", b.opened, 2)
		})
	}
}

func TestAFailedReadOfTablesIsNotRemembered(t *testing.T) {
	b := newBlobs()
	i := must(Load(t.Context(), b, withoutTables(t, imageOf(t, b, archive(t, "a/")), "")))
	kept := b.content
	b.content = map[digest.Digest][]byte{}
	if _, err := i.Tables(t.Context()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	b.content = kept
	if _, err := i.Tables(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWaitingForAnothersReadEndsWithTheContext(t *testing.T) {
	m := laterTables(nil)
	m.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// foreign is an image as other tools make them.
type foreign struct {
	manifestType, configType string
	layerTypes               []string
	layers                   [][]byte // as stored
	raws                     [][]byte
	config                   string
}

func (f foreign) publish(t *testing.T, b *blobs) storage.Manifest {
	t.Helper()
	var diffs []digest.Digest
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: f.manifestType, Annotations: map[string]string{"made": "elsewhere"}}
	for i, l := range f.layers {
		diffs = append(diffs, digest.FromBytes(f.raws[i]))
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: f.layerTypes[i], Digest: b.add(l), Size: int64(len(l)), Annotations: map[string]string{"x": "y"}})
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(f.config), &config); err != nil {
		t.Fatal(err)
	}
	if _, ok := config["rootfs"]; !ok {
		config["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffs}
	}
	blob, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = ocispec.Descriptor{MediaType: f.configType, Digest: b.add(blob), Size: int64(len(blob))}
	out, err := storage.NewManifest(f.manifestType, m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dockerImage has a gzip, a zstd and an uncompressed layer.
func dockerImage(t *testing.T) foreign {
	t.Helper()
	raws := [][]byte{archive(t, "usr/lib/", "lib->usr/lib", testPasswd), archive(t, "a/"), archive(t, "b/")}
	var z bytes.Buffer
	enc, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(raws[1]); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	b := newBlobs()
	gz := b.content[imageOf(t, b, raws[0]).Layers()[0].Digest]
	return foreign{
		manifestType: dockerManifest, configType: dockerConfig, layerTypes: []string{dockerLayerGzip, dockerLayerZstd, dockerLayer},
		layers: [][]byte{gz, z.Bytes(), raws[2]}, raws: raws,
		config: `{"architecture":"amd64","os":"linux","created":"2024-05-06T07:08:09Z","author":"someone","container":"abc",
			"history":[{"created_by":"sh"}],"config":{"Env":["PATH=/bin"],"Cmd":["sh"],"OnBuild":["RUN x"],"Healthcheck":{"Test":["CMD","y"]}}}`,
	}
}

func TestABaseOfForeignMakingBecomesAStage(t *testing.T) {
	b := newBlobs()
	base := dockerImage(t)
	m := base.publish(t, b)
	i := must(From(t.Context(), b, m, amd64))
	v, err := i.Manifest().Image()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "media type", i.Manifest().Descriptor.MediaType, ocispec.MediaTypeImageManifest)
	var types []string
	for n, l := range v.Layers {
		types = append(types, l.MediaType)
		equal(t, "layer", l.Digest, digest.FromBytes(base.layers[n]))
		equal(t, "annotations of a layer", len(l.Annotations), 0)
	}
	equalLines(t, "types of layers", types, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer)
	equal(t, "config", string(i.ConfigBlob()), `{"created":"2010-01-01T00:00:00Z","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["`+
		i.Config().RootFS.DiffIDs[0].String()+`","`+i.Config().RootFS.DiffIDs[1].String()+`","`+i.Config().RootFS.DiffIDs[2].String()+
		`"]},"config":{"Env":["PATH=/bin"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD","y"]}}}`)
	tables, err := must(Load(t.Context(), b, i.Manifest())).Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "directories", directories(tables), "a", "b", "etc", "usr", "usr/lib")
	base.config = strings.NewReplacer("2024", "2025", "someone", "another").Replace(base.config)
	again := must(From(t.Context(), b, base.publish(t, b), amd64))
	equal(t, "a base of another history", again.Manifest().Descriptor.Digest, i.Manifest().Descriptor.Digest)
	oci := must(From(t.Context(), b, i.Manifest(), amd64))
	equal(t, "a base that is a stage", oci.Manifest().Descriptor.Digest, i.Manifest().Descriptor.Digest)
}

func TestTheTablesOfABaseAreNotBelieved(t *testing.T) {
	b := newBlobs()
	honest := imageOf(t, b, archive(t, "lib->usr/lib", "usr/lib/"))
	lie, _ := emptyTables().Encode()
	got := must(From(t.Context(), b, withoutTables(t, honest, lie), amd64))
	equal(t, "digest", got.Manifest().Descriptor.Digest, honest.Manifest().Descriptor.Digest)
}

func TestALayerOfUnknownMakingIsRefused(t *testing.T) {
	if i, err := Scratch(amd64).Append([]Layer{{}}, nil); err == nil {
		t.Errorf("got %s", i.Manifest().Bytes)
	}
}

func TestBasesThatCannotBeBuiltUponAreRefused(t *testing.T) {
	cases := map[string]struct {
		change func(*foreign)
		want   error
	}{
		"an index":                   {func(f *foreign) { f.manifestType = ocispec.MediaTypeImageIndex }, ErrUnsupported},
		"an unknown manifest":        {func(f *foreign) { f.manifestType = "application/json" }, ErrUnsupported},
		"a chart":                    {func(f *foreign) { f.configType = "application/vnd.cncf.helm.config.v1+json" }, ErrUnsupported},
		"a foreign layer":            {func(f *foreign) { f.layerTypes[0] = dockerForeignGzip }, ErrUnsupported},
		"a nondistributable layer":   {func(f *foreign) { f.layerTypes[0] = ocispec.MediaTypeImageLayerNonDistributableGzip }, ErrUnsupported}, //nolint:staticcheck // still met
		"an encrypted layer":         {func(f *foreign) { f.layerTypes[0] = ocispec.MediaTypeImageLayerGzip + "+encrypted" }, ErrUnsupported},
		"another architecture":       {func(f *foreign) { f.config = `{"architecture":"arm64","os":"linux"}` }, ErrPlatform},
		"another system":             {func(f *foreign) { f.config = `{"architecture":"amd64","os":"windows"}` }, ErrPlatform},
		"no platform":                {func(f *foreign) { f.config = `{}` }, ErrPlatform},
		"another number of diff ids": {func(f *foreign) { f.config = `{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}` }, storage.ErrCorrupt},
		"a wrong diff id":            {func(f *foreign) { f.raws[1] = []byte("other") }, storage.ErrCorrupt},
		"a layer that is no archive": {func(f *foreign) { f.raws[2] = bytes.Repeat([]byte("x"), 512); f.layers[2] = f.raws[2] }, ErrLayer},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b, f := newBlobs(), dockerImage(t)
			c.change(&f)
			if _, err := From(t.Context(), b, f.publish(t, b), amd64); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestVariantsOfAPlatform(t *testing.T) {
	cases := map[string]struct {
		has  ocispec.Platform
		want stages.Platform
		ok   bool
	}{
		"arm64 is arm64/v8":                   {ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "linux/arm64", true},
		"a missing variant is accepted":       {ocispec.Platform{OS: "linux", Architecture: "arm"}, "linux/arm/v7", true},
		"any variant where none is asked for": {ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, "linux/arm", true},
		"another variant is refused":          {ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, "linux/arm/v7", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { equal(t, "accepted", checkPlatform(c.has, c.want) == nil, c.ok) })
	}
}

func TestDamagedManifestsAreRefused(t *testing.T) {
	good := must(Scratch(amd64).Append(nil, fullConfig()))
	change := func(f func(*ocispec.Manifest)) storage.Manifest {
		v, err := good.Manifest().Image()
		if err != nil {
			t.Fatal(err)
		}
		f(&v)
		m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	junk := good.Manifest()
	junk.Bytes = []byte("{")
	for name, c := range map[string]struct {
		m    storage.Manifest
		want error
	}{
		"no JSON":                     {junk, storage.ErrCorrupt},
		"another config inside":       {change(func(m *ocispec.Manifest) { m.Config.Data = []byte("{}") }), storage.ErrCorrupt},
		"a config far too large":      {change(func(m *ocispec.Manifest) { m.Config.Size = storage.MaxConfig + 1 }), storage.ErrTooLarge},
		"a config without a digest":   {change(func(m *ocispec.Manifest) { m.Config.Digest = "sha256:x" }), storage.ErrCorrupt},
		"a layer of a negative size":  {change(func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{{Digest: m.Config.Digest, Size: -1}} }), storage.ErrCorrupt},
		"a config that is not stored": {change(func(m *ocispec.Manifest) { m.Config.Data = nil }), storage.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(t.Context(), newBlobs(), c.m); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
