package kube

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
)

// known is the digest that the storage of these tests knows.
func known() stages.Digest { return stages.DigestOf([]byte("a stage")) }

func newQuery() Query {
	return Query{Known: func(d stages.Digest) bool { return d == known() }, Names: []string{"registry.test/shop", "mirror.test:5000/x"}}
}

func TestMentionsAreFoundWhereverTheyStand(t *testing.T) {
	hex := known().Hex()
	for name, c := range map[string]struct{ object, want string }{
		"an image by digest":           {`{"spec":{"image":"registry.test/shop@sha256:` + hex + `"}}`, "D"},
		"a mirror nobody told us of":   {`{"spec":{"image":"other.test/y@sha256:` + hex + `"}}`, "D"},
		"a stage's tag":                {`{"spec":{"image":"other.test/y:` + hex + `"}}`, "D"},
		"a build's tag":                {`{"spec":{"image":"y:build-` + hex + `"}}`, "D"},
		"a tag in a field of its own":  {`{"spec":{"tag":"` + hex + `"}}`, "D"},
		"text inside of text":          {`{"data":{"a":"{\"image\":\"y@sha256:` + hex + `\"}"}}`, "D"},
		"a longer run of digits":       {`{"spec":{"image":"y:0` + hex + `"}}`, ""},
		"a digest nobody knows":        {`{"spec":{"image":"y@sha256:` + strings.Repeat("a", 64) + `"}}`, ""},
		"an unknown digest of ours":    {`{"spec":{"image":"registry.test/shop@sha256:` + strings.Repeat("a", 64) + `"}}`, "D"},
		"a tag of ours":                {`{"spec":{"image":"registry.test/shop:v1.2-rc_1"}}`, "v1.2-rc_1"},
		"a tag behind a mirror's name": {`{"spec":{"image":"mirror.test:5000/x:v2"}}`, "v2"},
		"another repository below":     {`{"spec":{"image":"registry.test/shop/web:v1"}}`, ""},
		"another host that ends alike": {`{"spec":{"image":"my-registry.test/shop:v1"}}`, ""},
		"a name without a tag":         {`{"spec":{"image":"registry.test/shop"}}`, ""},
		"two of them":                  {`{"a":"registry.test/shop:v1 registry.test/shop:v2"}`, "v1 v2"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range newFinds("c", newQuery()).matches([]byte(c.object)) {
				if m.tag == "" {
					m.tag = "D"
				}
				got = append(got, m.tag)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("found %v, want %q", got, c.want)
			}
		})
	}
}

func TestAPlaceIsToldByItsField(t *testing.T) {
	f := newFinds("prod", newQuery())
	object := `{"metadata":{"name":"web","namespace":"shop","annotations":{"last":"` + known().Hex() + `"}},"spec":{"containers":[{},{"image":"x@` + known().String() + `"}]}}`
	if err := f.object("Pod", json.RawMessage(object)); err != nil {
		t.Fatal(err)
	}
	got := f.mentions()
	if len(got) != 1 || got[0].Where != "Pod shop/web (spec.containers[1].image), cluster prod" {
		t.Errorf("%+v", got)
	}
}

func TestObjectsOfALedgerAreNoUse(t *testing.T) {
	f := newFinds("prod", newQuery())
	object := `{"metadata":{"name":"cairn-p.1","labels":{"cairn.build/shard":"1"}},"data":{"stage.x":"` + known().Hex() + `"}}`
	if err := f.object("ConfigMap", json.RawMessage(object)); err != nil || len(f.mentions()) != 0 {
		t.Errorf("%v, %v", err, f.mentions())
	}
}

// packed is a release as Helm writes it.
func packed(t testing.TB, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestRevisionsOfHelmAreUnpacked(t *testing.T) {
	release := packed(t, `{"name":"web","manifest":"image: x@`+known().String()+`"}`)
	twice := base64.StdEncoding.EncodeToString([]byte(release))
	for name, c := range map[string]struct {
		kind, object string
		found        int
		bad          bool
	}{
		"in a secret":                  {"Secret", `{"type":"helm.sh/release.v1","metadata":{"name":"r","namespace":"n"},"data":{"release":"` + twice + `"}}`, 1, false},
		"in a config map":              {"ConfigMap", `{"metadata":{"name":"r","namespace":"n","labels":{"owner":"helm"}},"data":{"release":"` + release + `"}}`, 1, false},
		"without compression":          {"ConfigMap", `{"metadata":{"labels":{"owner":"helm"}},"data":{"release":"` + base64.StdEncoding.EncodeToString([]byte(`{"manifest":"`+known().Hex()+`"}`)) + `"}}`, 1, false},
		"somebody else's secret":       {"Secret", `{"type":"Opaque","data":{"release":"` + twice + `"}}`, 0, false},
		"a secret that is no base64":   {"Secret", `{"type":"helm.sh/release.v1","data":{"release":"%%"}}`, 0, true},
		"a stream that ends too early": {"ConfigMap", `{"metadata":{"labels":{"owner":"helm"}},"data":{"release":"` + release[:len(release)/8*4] + `"}}`, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFinds("prod", newQuery())
			err := f.object(c.kind, json.RawMessage(c.object))
			if (err != nil) != c.bad || c.bad && !errors.Is(err, errRelease) {
				t.Fatalf("err = %v", err)
			}
			got := f.mentions()
			if len(got) != c.found || c.found > 0 && !strings.HasPrefix(got[0].Where, "Helm revision ") {
				t.Errorf("found %v", got)
			}
		})
	}
}

func FuzzObject(f *testing.F) {
	f.Add("ConfigMap", []byte(`{"metadata":{"labels":{"owner":"helm"}},"data":{"release":"`+packed(f, "{}")+`"}}`))
	f.Add("Pod", []byte(`{"spec":{"image":"registry.test/shop:`+known().Hex()+`"}}`))
	f.Add("Pod", []byte(`registry.test/shopregistry.test/shop:`))
	f.Fuzz(func(_ *testing.T, kind string, raw []byte) {
		found := newFinds("c", newQuery())
		_ = found.object(kind, raw)
		found.mentions()
	})
}
