package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value says how something is written in the file: how it is read, how it is
// described in the JSON Schema, and what a person is told is allowed.
type value[V any] struct {
	words  string
	schema map[string]any
	// objects are those inside the value, for the reference.
	objects []objectInfo
	read    func(r *reader, n *yaml.Node) (V, bool)
}

// object is a mapping with known keys that is read into a T.
type object[T any] struct {
	// title names the object in messages and in the reference.
	title, doc, example string
	keys                []key[T]
	// refused are keys that others know and that are not supported here.
	refused []refusal
	// finish checks keys against each other. It may be nil.
	finish func(r *reader, n *yaml.Node, present map[string]*yaml.Node, into *T)
}

// key is a known key of an object.
type key[T any] struct {
	keyInfo
	read func(r *reader, n *yaml.Node, into *T)
}

// keyInfo is what is told about a key.
type keyInfo struct {
	name, doc string
	// otherwise is what holds where the key is missing.
	otherwise string
	required  bool
	// cairnOnly keys are unknown in a werf.yaml, werfOnly ones elsewhere.
	cairnOnly, werfOnly bool
	words               string
	schema              map[string]any
}

func (k keyInfo) knownIn(d Dialect) bool {
	return (!k.cairnOnly || d == DialectCairn) && (!k.werfOnly || d == DialectWerf)
}

// objectInfo is what is told about an object.
type objectInfo struct {
	title, doc, example string
	keys                []keyInfo
	inner               []objectInfo
}

// refusal is a key that is recognised in order to say what to do instead.
type refusal struct {
	key, message, hint string
	// werfOnly refusals are plain unknown keys in a cairn.yaml.
	werfOnly bool
}

// field makes a key of an object from a value. set is given the node, too, so
// that later checks know the place.
func field[T, V any](info keyInfo, v value[V], set func(into *T, got V, n *yaml.Node)) fieldOf[T] {
	info.words, info.schema = v.words, v.schema
	return fieldOf[T]{key: key[T]{keyInfo: info, read: func(r *reader, n *yaml.Node, into *T) {
		if got, ok := v.read(r, n); ok {
			set(into, got, n)
		}
	}}, inner: v.objects}
}

// fieldOf is a key with the objects inside its value.
type fieldOf[T any] struct {
	key   key[T]
	inner []objectInfo
}

// asValue makes the object a value that other objects can hold.
func (o object[T]) asValue(fields ...fieldOf[T]) value[T] {
	info := objectInfo{title: o.title, doc: o.doc, example: o.example}
	for _, f := range fields {
		o.keys = append(o.keys, f.key)
		info.keys = append(info.keys, f.key.keyInfo)
		info.inner = append(info.inner, f.inner...)
	}
	return value[T]{words: "a mapping", schema: o.schema(), objects: []objectInfo{info}, read: o.read}
}

func (o object[T]) read(r *reader, n *yaml.Node) (T, bool) {
	var into T
	pairs, ok := r.pairs(n, "a mapping")
	if !ok {
		return into, false
	}
	present := make(map[string]*yaml.Node, len(pairs))
	for _, p := range pairs {
		present[p.key.Value] = p.key
		o.readKey(r, p, &into)
	}
	for _, k := range o.keys {
		if k.required && k.knownIn(r.dialect) && present[k.name] == nil {
			r.failf(n, "", "the key %q is missing", k.name)
		}
	}
	if o.finish != nil {
		o.finish(r, n, present, &into)
	}
	return into, true
}

func (o object[T]) readKey(r *reader, p pair, into *T) {
	name := p.key.Value
	for _, k := range o.keys {
		if k.name == name && k.knownIn(r.dialect) {
			r.in("."+name, func() { k.read(r, p.value, into) })
			return
		}
	}
	for _, refused := range o.refused {
		if refused.key == name && (!refused.werfOnly || r.dialect == DialectWerf) {
			r.failf(p.key, refused.hint, "%s", refused.message)
			return
		}
	}
	known := o.known(r.dialect)
	hint := "known keys: " + strings.Join(known, ", ")
	message := fmt.Sprintf("unknown key %q", shorten(name))
	if r.where() == "" {
		message += " in " + o.title
	}
	if near, ok := nearest(name, known); ok {
		message += fmt.Sprintf("; did you mean %q?", near)
	}
	r.failf(p.key, hint, "%s", message)
}

func (o object[T]) known(d Dialect) []string {
	var names []string
	for _, k := range o.keys {
		if k.knownIn(d) {
			names = append(names, k.name)
		}
	}
	return names
}

// schema describes the object as Cairn's dialect has it.
func (o object[T]) schema() map[string]any {
	properties := make(map[string]any)
	required := []string{}
	for _, k := range o.keys {
		if !k.knownIn(DialectCairn) {
			continue
		}
		one := make(map[string]any, len(k.schema)+1)
		for name, v := range k.schema {
			one[name] = v
		}
		one["description"] = k.doc
		properties[k.name] = one
		if k.required {
			required = append(required, k.name)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return s
}

// listOf reads a list of values, which may be empty.
func listOf[V any](v value[V]) value[[]V] {
	words := "a list, each element " + v.words
	return value[[]V]{
		words: words, schema: map[string]any{"type": "array", "items": v.schema}, objects: v.objects,
		read: func(r *reader, n *yaml.Node) ([]V, bool) {
			items, ok := r.items(n, words)
			if !ok {
				return nil, false
			}
			return readItems(r, items, v)
		},
	}
}

// oneOrMany reads a value alone or a list of at least one; words says so.
func oneOrMany[V any](v value[V], words string) value[[]V] {
	return value[[]V]{
		words:  words,
		schema: map[string]any{"anyOf": []any{v.schema, map[string]any{"type": "array", "items": v.schema, "minItems": 1}}},
		read: func(r *reader, n *yaml.Node) ([]V, bool) {
			n, ok := r.resolve(n)
			if !ok {
				return nil, false
			}
			switch n.Kind {
			case yaml.ScalarNode:
				if n.ShortTag() == "!!null" {
					r.mismatch(n, words)
					return nil, false
				}
				one, ok := v.read(r, n)
				return []V{one}, ok
			case yaml.SequenceNode:
				if len(n.Content) == 0 {
					r.failf(n, "remove the key", "the list is empty")
					return nil, false
				}
				return readItems(r, n.Content, v)
			default:
				r.mismatch(n, words)
				return nil, false
			}
		},
	}
}

func readItems[V any](r *reader, items []*yaml.Node, v value[V]) ([]V, bool) {
	out := make([]V, 0, len(items))
	good := true
	for i, item := range items {
		r.in("["+strconv.Itoa(i)+"]", func() {
			one, ok := v.read(r, item)
			good = good && ok
			out = append(out, one)
		})
	}
	return out, good
}

// mapOf reads a mapping whose keys the project chooses.
func mapOf(words string, checkKey func(string) error, keyPattern string, v value[string]) value[map[string]string] {
	return value[map[string]string]{
		words: words,
		schema: map[string]any{
			"type": "object", "additionalProperties": v.schema, "propertyNames": map[string]any{"pattern": keyPattern},
		},
		read: func(r *reader, n *yaml.Node) (map[string]string, bool) {
			pairs, ok := r.pairs(n, words)
			if !ok {
				return nil, false
			}
			out := make(map[string]string, len(pairs))
			for _, p := range pairs {
				if err := checkKey(p.key.Value); err != nil {
					r.failf(p.key, "", "%s", err)
					continue
				}
				r.in("."+p.key.Value, func() { out[p.key.Value], _ = v.read(r, p.value) })
			}
			return out, true
		},
	}
}

// checked adds a check that may also bring the value into its usual form.
func checked[A, B any](v value[A], words string, check func(A) (B, error)) value[B] {
	return value[B]{words: words, schema: v.schema, objects: v.objects, read: func(r *reader, n *yaml.Node) (B, bool) {
		var none B
		raw, ok := v.read(r, n)
		if !ok {
			return none, false
		}
		out, err := check(raw)
		if err != nil {
			r.failf(n, "", "%s", err)
			return none, false
		}
		return out, true
	}}
}

// nearest finds what a misspelt word was meant to be.
func nearest(word string, among []string) (string, bool) {
	best, found := 3, ""
	for _, candidate := range among {
		if strings.EqualFold(word, candidate) {
			return candidate, true
		}
		if len(word) > 64 || len(word) < 3 {
			continue
		}
		if d := distance(word, candidate); d < best {
			best, found = d, candidate
		}
	}
	return found, found != ""
}

// distance counts the letters to insert, remove or replace between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// quoteList writes names for a message.
func quoteList(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}
