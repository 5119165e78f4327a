package inventory

import (
	"bytes"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

func sample() catalogue {
	image, list := digest.FromString("image"), digest.FromString("list")
	c := Blob{digest.FromString("config"), 7}
	return catalogue{
		names: map[string]record{
			storage.StageTag(stages.DigestOf([]byte("s"))): {image, time.Unix(1, 0).UTC(), time.Time{}},
			storage.BuildTag(stages.DigestOf([]byte("b"))): {list, time.Unix(2, 0).UTC(), time.Unix(1, 0).UTC()},
		},
		manifests: map[digest.Digest]*Manifest{
			image: {Digest: image, Size: 3, Config: c, Layers: []Blob{{digest.FromString("layer"), 1 << 33}}},
			list:  {Digest: list, Size: 4, Index: true, Members: []Member{{image, "back", stages.DigestOf([]byte("s")), "linux/amd64"}}},
		},
	}
}

func FuzzDecodeIndex(f *testing.F) {
	good, err := sample().encode("mem")
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(good, []byte("\n"))
	f.Add(body)
	f.Add([]byte(`{"storage":"mem","digests":[],"manifests":[{"d":-1}]}`))
	f.Add([]byte(`{"storage":"mem","names":[{"t":"x","d":9}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		// With the right digest in front, as of a program with a defect.
		c, err := decode(append([]byte(indexHeader+digest.FromBytes(body).String()+"\n"), body...), "mem")
		if err != nil {
			return
		}
		for tag, r := range c.names {
			if c.manifests[r.Digest] == nil {
				t.Errorf("%s names %s, which is not there", tag, r.Digest)
			}
		}
		b, err := c.encode("mem")
		if err != nil {
			return // times that JSON cannot hold
		}
		if _, err := decode(b, "mem"); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}

func TestAnIndexIsReadAsItWasWritten(t *testing.T) {
	b, err := sample().encode("mem")
	if err != nil {
		t.Fatal(err)
	}
	c, err := decode(b, "mem")
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.encode("mem")
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("it is written as\n%s\nand then as\n%s", b, again)
	}
}
