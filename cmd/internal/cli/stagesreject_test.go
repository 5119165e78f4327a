package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/mem"
)

func TestWhatWasPublishedAnewSinceTheInventoryIsNotWithdrawn(t *testing.T) {
	st := mem.New(mem.Options{})
	inv := &inventory.Inventory{Manifests: map[digest.Digest]*inventory.Manifest{}}
	publish := func(tag, content string) digest.Digest {
		m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Annotations: map[string]string{"x": content}})
		if err == nil {
			err = st.Publish(t.Context(), tag, m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.Descriptor.Digest
	}
	var tags []string
	for _, name := range []string{"same", "anew", "gone"} {
		tag := storage.StageTag(stages.DigestOf([]byte(name)))
		m := &inventory.Manifest{Digest: publish(tag, name)}
		inv.Names, inv.Manifests[m.Digest] = append(inv.Names, inventory.Name{Tag: tag, Kind: inventory.KindStage, Manifest: m}), m
		tags = append(tags, tag)
	}
	slices.SortFunc(inv.Names, func(a, b inventory.Name) int { return strings.Compare(a.Tag, b.Tag) })
	publish(tags[1], "another")
	if err := st.DeleteTag(t.Context(), tags[2]); err != nil {
		t.Fatal(err)
	}
	plan, done, err := planWithdrawal(t.Context(), held{storage: st, inventory: inv}, tags)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Remove) != 1 || plan.Remove[0].Tag() != tags[0] {
		t.Errorf("%v are to be removed, want only %s", plan.Remove, tags[0])
	}
	if len(done) != 2 || done[0].Tag != tags[1] || done[0].Gone || done[0].Why != "it was published anew" || !done[1].Gone {
		t.Errorf("of the others it says %+v", done)
	}
	if plan.Known(tags[1]) || !plan.Known(tags[0]) {
		t.Error("what was published anew counts as known, so what it stands on would go")
	}
}
