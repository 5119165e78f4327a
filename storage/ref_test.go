package storage_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

func TestParseRefTellsTagsFromDigests(t *testing.T) {
	d := digest.FromString("x")
	for ref, want := range map[string]struct {
		tag string
		d   digest.Digest
		ok  bool
	}{
		"v1":                                   {"v1", "", true},
		"_x.Y-Z_9":                             {"_x.Y-Z_9", "", true},
		strings.Repeat("a", 128):               {strings.Repeat("a", 128), "", true},
		d.Encoded():                            {d.Encoded(), "", true},
		d.String():                             {"", d, true},
		"":                                     {},
		".hidden":                              {},
		"-flag":                                {},
		"a/b":                                  {},
		"a b":                                  {},
		"ü":                                    {},
		"v1\n":                                 {},
		"sha256:abc":                           {},
		"md5:d41d8cd98f00b204e9800998ecf8427e": {},
		strings.Repeat("a", 129):               {},
	} {
		tag, got, err := storage.ParseRef(ref)
		if tag != want.tag || got != want.d || (err == nil) != want.ok {
			t.Errorf("ParseRef(%q) = %q, %q, %v", ref, tag, got, err)
		}
		if err != nil && !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("ParseRef(%q) is not classified as invalid: %v", ref, err)
		}
	}
}

func TestDetectMediaType(t *testing.T) {
	for b, want := range map[string]string{
		`{"config":{},"layers":[]}`:                   ocispec.MediaTypeImageManifest,
		`{"manifests":[]}`:                            ocispec.MediaTypeImageIndex,
		`{"mediaType":"x/y","config":{},"layers":[]}`: "x/y",
		`{"mediaType":"x/y","manifests":[]}`:          "x/y",
		`{"manifests":[],"layers":[]}`:                "", // the ambiguity of CVE-2021-41190
		`{"mediaType":"x/y"}`:                         "",
		`{"architecture":"amd64","config":{}}`:        "",
		`[]`:                                          "",
		`not JSON`:                                    "",
	} {
		if got := storage.DetectMediaType([]byte(b)); got != want {
			t.Errorf("DetectMediaType(%s) = %q, want %q", b, got, want)
		}
	}
}

func TestReferencesLeaveOutForeignLayersAndRepetitions(t *testing.T) {
	config, layer := descriptor("config"), descriptor("layer")
	foreign := descriptor("foreign")
	foreign.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	foreign.URLs = []string{"https://example.com/layer"}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Config: config, Layers: []ocispec.Descriptor{layer, foreign, layer},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifests, blobs, err := m.References()
	if err != nil || len(manifests) != 0 || len(blobs) != 2 || blobs[0].Digest != config.Digest || blobs[1].Digest != layer.Digest {
		t.Errorf("References() = %v, %v, %v", manifests, blobs, err)
	}
}
