package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

func TestBasesAreResolvedForAPlatform(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	client := newClient(t, (&recorder{}).options())
	address := server.Address() + "/base/tools"
	s, err := client.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	amd, arm, v7 := pushImage(t, s, 1), pushImage(t, s, 2), pushImage(t, s, 3)
	for _, m := range []storage.Manifest{amd, arm, v7} {
		wantClass(t, s.PushManifest(t.Context(), m), nil)
	}
	on := func(m storage.Manifest, arch, variant string) ocispec.Descriptor {
		d := m.Descriptor
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
		return d
	}
	attestation := v7.Descriptor
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	index, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{attestation, on(amd, "amd64", ""), on(arm, "arm64", "v8"), on(v7, "arm", "v7")},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantClass(t, s.Publish(t.Context(), "many", index), nil)
	wantClass(t, s.Publish(t.Context(), "single", amd), nil)
	requestsOf(t, server)

	tests := []struct {
		name, ref string
		platform  stages.Platform
		want      storage.Manifest
		sent      string
		class     error
	}{
		{"a tag of an image costs a HEAD", ":single", "linux/amd64", amd, "HEAD", nil},
		{"a digest of an image too", "@" + amd.Descriptor.Digest.String(), "linux/amd64", amd, "HEAD", nil},
		{"an index costs a GET more", ":many", "linux/amd64", amd, "HEAD GET", nil},
		{"a tag beside a digest says nothing", ":gone@" + index.Descriptor.Digest.String(), "linux/amd64", amd, "HEAD GET", nil},
		{"the usual variant is implied", ":many", "linux/arm64", arm, "HEAD GET", nil},
		{"the only variant is meant", ":many", "linux/arm", v7, "HEAD GET", nil},
		{"another variant is not", ":many", "linux/arm/v6", storage.Manifest{}, "HEAD GET", storage.ErrNotFound},
		{"an absent platform is not found", ":many", "linux/s390x", storage.Manifest{}, "HEAD GET", storage.ErrNotFound},
		{"an absent tag is not found", ":absent", "linux/amd64", storage.Manifest{}, "HEAD", storage.ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := client.ResolveBase(t.Context(), address+tt.ref, tt.platform)
			wantClass(t, err, tt.class)
			want := Base{}
			if tt.class == nil {
				want = Base{address, tt.want.Descriptor.Digest.String(), ocispec.MediaTypeImageManifest}
			}
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if sent := strings.Join(requestsOf(t, server), " "); sent != tt.sent {
				t.Errorf("sent %s, want %s", sent, tt.sent)
			}
		})
	}
	_, err = client.Bases().Resolve(t.Context(), address+":many", "linux/s390x")
	if err == nil || !strings.Contains(err.Error(), "there is: linux/amd64, linux/arm/v7, linux/arm64") {
		t.Errorf("the error does not say what there is: %v", err)
	}
	base, err := client.Bases().Open(address + ":many")
	if err != nil || base.Address() != address {
		t.Errorf("opened %v, %v", base, err)
	}
}

func TestReferencesOfBases(t *testing.T) {
	bases := newClient(t, (&recorder{}).options()).Bases()
	for _, tt := range []struct{ ref, want string }{
		{"alpine", "index.docker.io/library/alpine"},
		{"alpine:3.20", "index.docker.io/library/alpine"},
		{"docker.io/bitnami/redis", "index.docker.io/bitnami/redis"},
		{"localhost:5000/a/b@sha256:" + strings.Repeat("a", 64), "localhost:5000/a/b"},
	} {
		s, err := bases.Open(tt.ref)
		if err != nil {
			t.Errorf("%s: %v", tt.ref, err)
			continue
		}
		if got := s.Address(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.ref, got, tt.want)
		}
	}
	for _, bad := range []string{"", "https://example.com/x", "UPPER", "a b"} {
		if _, err := bases.Open(bad); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: got %v, want ErrAddress", bad, err)
		}
	}
}

func TestALoginInABaseIsNotRepeated(t *testing.T) {
	bases := newClient(t, (&recorder{}).options()).Bases()
	for _, bad := range []string{
		"user:sekret@127.0.0.1:1/base:latest", "https://user:sekret@example.com/base", "https://user:se/kret@example.com/base",
		"user:se kr/sekret@example.com/base@sha256:ab", "sekret@base", "a@sekret@b",
		"user:sekret@h/base@sha256:" + strings.Repeat("a", 64),
	} {
		_, err := bases.Resolve(t.Context(), bad, "linux/amd64")
		if !errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "kr") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
