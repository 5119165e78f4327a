package kube

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/stages"
)

// ledgerLabel is that of a ledger's own objects, which tell of stages in flight and
// not of what is in use.
const ledgerLabel = "cairn.build/shard"

// maxPlaces bounds the places that are told for one digest or tag.
const maxPlaces = 3

// finds gathers what a cluster mentions.
type finds struct {
	cluster string
	query   Query

	mu     sync.Mutex
	places map[match][]string
}

// match is what was found: a digest, or a tag of the storage.
type match struct {
	digest stages.Digest
	tag    string
}

func newFinds(cluster string, q Query) *finds {
	return &finds{cluster: cluster, query: q, places: make(map[match][]string)}
}

// object looks into an object.
func (f *finds) object(kind string, raw json.RawMessage) error {
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name      string            `json:"name"`
			Namespace string            `json:"namespace"`
			Labels    map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	texts := [][]byte{raw}
	// Only these two hold a release; and both are asked before anything is decoded.
	holdsRelease := kind == "Secret" || kind == "ConfigMap"
	if !holdsRelease && len(f.matches(raw)) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	m := head.Metadata
	if _, ours := m.Labels[ledgerLabel]; ours && kind == "ConfigMap" {
		return nil
	}
	label := strings.TrimPrefix(m.Namespace+"/"+m.Name, "/")
	if holdsRelease {
		release, err := releaseOf(kind, raw)
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind, label, err)
		}
		if release != nil {
			texts, kind = append(texts, release), "Helm revision"
		}
	}
	for _, text := range texts {
		for _, found := range f.matches(text) {
			f.add(found, kind+" "+label+fieldOf(text, found)+", cluster "+f.cluster)
		}
	}
	return nil
}

func (f *finds) add(m match, place string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.places[m]; len(had) < maxPlaces && !slices.Contains(had, place) {
		f.places[m] = append(had, place)
	}
}

// mentions returns what was found, sorted.
func (f *finds) mentions() []cleanup.Mention {
	var out []cleanup.Mention
	for m, places := range f.places {
		slices.Sort(places)
		for _, p := range places {
			out = append(out, cleanup.Mention{Digest: m.digest, Tag: m.tag, Where: p})
		}
	}
	slices.SortFunc(out, func(a, b cleanup.Mention) int {
		return cmp.Or(bytes.Compare(a.Digest[:], b.Digest[:]), strings.Compare(a.Tag, b.Tag), strings.Compare(a.Where, b.Where))
	})
	return out
}

// matches returns what a text mentions, each once: runs of 64 hexadecimal digits
// that the storage knows, whatever stands around them, and tags after its names.
func (f *finds) matches(text []byte) []match {
	var out []match
	add := func(m match) {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	for d := range digests(text) {
		if f.query.Known(d) {
			add(match{digest: d})
		}
	}
	for _, name := range f.query.Names {
		for _, m := range named(text, name) {
			add(m)
		}
	}
	return out
}

// digests yields all runs of exactly 64 lower-case hexadecimal digits.
func digests(text []byte) func(yield func(stages.Digest) bool) {
	return func(yield func(stages.Digest) bool) {
		const length = 2 * len(stages.Digest{})
		for i := 0; i < len(text); {
			if !isHex(text[i]) {
				i++
				continue
			}
			start := i
			for i < len(text) && isHex(text[i]) {
				i++
			}
			if i-start != length {
				continue
			}
			var d stages.Digest
			if _, err := hex.Decode(d[:], text[start:i]); err == nil && !yield(d) {
				return
			}
		}
	}
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// named returns the tags, and the digests, that stand behind a name of the storage.
func named(text []byte, name string) []match {
	var out []match
	for rest, before := text, byte(' '); name != ""; {
		i := bytes.Index(rest, []byte(name))
		if i < 0 {
			break
		}
		if i > 0 {
			before = rest[i-1]
		}
		rest = rest[i+len(name):]
		if inName(before) {
			before = name[len(name)-1]
			continue
		}
		before = name[len(name)-1]
		if hash, ok := bytes.CutPrefix(rest, []byte("@sha256:")); ok {
			for d := range digests(hash[:min(len(hash), 2*len(stages.Digest{}))]) {
				out = append(out, match{digest: d})
			}
			continue
		}
		if tag := tagOf(rest); tag != "" {
			out = append(out, match{tag: tag})
		}
	}
	return out
}

// inName reports whether a character before a name makes it the end of another.
func inName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-:/@", c) >= 0
}

// tagOf reads ":tag".
func tagOf(b []byte) string {
	const longest = 128
	b, ok := bytes.CutPrefix(b, []byte(":"))
	if !ok {
		return ""
	}
	n := 0
	for n < len(b) && n < longest && (isWord(b[n]) || n > 0 && (b[n] == '.' || b[n] == '-')) {
		n++
	}
	return string(b[:n])
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// fieldOf returns where in an object a match stands, " (spec.containers[0].image)";
// "" where that cannot be told.
func fieldOf(text []byte, m match) string {
	var v any
	if json.Unmarshal(text, &v) != nil {
		return ""
	}
	want := ":" + m.tag
	if m.tag == "" {
		want = m.digest.Hex()
	}
	if path, ok := pathTo(v, want, 0); ok {
		return " (" + strings.TrimPrefix(path, ".") + ")"
	}
	return ""
}

// pathTo finds the first string that holds want, annotations last: they repeat what
// the fields say.
func pathTo(v any, want string, depth int) (string, bool) {
	const deepest = 64
	if depth > deepest {
		return "", false
	}
	switch v := v.(type) {
	case string:
		return "", strings.Contains(v, want)
	case []any:
		for i, e := range v {
			if p, ok := pathTo(e, want, depth+1); ok {
				return fmt.Sprintf("[%d]%s", i, p), true
			}
		}
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b string) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
		})
		for _, k := range keys {
			if p, ok := pathTo(v[k], want, depth+1); ok {
				return "." + k + p, true
			}
		}
	}
	return "", false
}

func rank(key string) int {
	switch key {
	case "spec":
		return 0
	case "metadata":
		return 2
	}
	return 1
}
