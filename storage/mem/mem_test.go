package mem_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStorageConforms(t *testing.T) {
	for name, opts := range map[string]mem.Options{
		"by default":                  {},
		"with immutable tags":         {ImmutableTags: true},
		"with tags that stay":         {KeepTags: true},
		"with references not checked": {LooseReferences: true},
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(*testing.T) storage.Storage { return mem.New(opts) })
		})
	}
}

func TestAddressIsTheOneGiven(t *testing.T) {
	if got := mem.New(mem.Options{Address: "registry.example.com/shop"}).Address(); got != "registry.example.com/shop" {
		t.Errorf("Address() = %q", got)
	}
	if got := mem.New(mem.Options{}).Address(); got != ":mem" {
		t.Errorf("default Address() = %q", got)
	}
}
