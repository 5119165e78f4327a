package config

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// reader reads YAML nodes and reports what is wrong with them.
type reader struct {
	text     *rendered
	dialect  Dialect
	problems *collector
	// path names where the reader is, for messages: "docker", ".EXPOSE", "[0]".
	path   []string
	visits int
}

// in runs f one step further down.
func (r *reader) in(step string, f func()) {
	r.path = append(r.path, step)
	f()
	r.path = r.path[:len(r.path)-1]
}

// where is the path in the words of the file.
func (r *reader) where() string { return strings.TrimPrefix(strings.Join(r.path, ""), ".") }

func (r *reader) place(n *yaml.Node) place { return r.text.locate(n.Line, n.Column) }

// line is where n stands in the file as written.
func (r *reader) line(n *yaml.Node) int { return r.place(n).line }

// failf reports an error at n, with the path in front.
func (r *reader) failf(n *yaml.Node, hint, format string, args ...any) {
	if at := r.where(); at != "" {
		format = strings.ReplaceAll(at, "%", "%%") + ": " + format
	}
	r.problems.addf(r.place(n), hint, format, args...)
}

// mismatch reports a value of a wrong type.
func (r *reader) mismatch(n *yaml.Node, allowed string) {
	r.failf(n, "", "found %s; allowed: %s", found(n), allowed)
}

// found names what a node is.
func found(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool":
		return "the boolean " + n.Value
	case "!!timestamp":
		return "the date " + shorten(n.Value)
	case "!!str":
		return fmt.Sprintf("the string %q", shorten(n.Value))
	default:
		return "a value tagged " + shorten(n.Tag)
	}
}

// resolve follows aliases. Every node read passes through here, so that few
// aliases cannot stand for endlessly many nodes.
func (r *reader) resolve(n *yaml.Node) (*yaml.Node, bool) {
	for n.Kind == yaml.AliasNode && r.visits <= maxVisits {
		r.visits++
		n = n.Alias
	}
	if r.visits++; r.visits > maxVisits {
		if r.visits == maxVisits+1 {
			r.problems.addf(r.place(n), "", "the file is too large: more than %d values, those behind aliases counted each time", maxVisits)
		}
		return nil, false
	}
	return n, true
}

// scalar returns the text of a scalar that is neither null nor of a foreign tag.
func (r *reader) scalar(n *yaml.Node, allowed string, strict bool) (string, bool) {
	n, ok := r.resolve(n)
	if !ok {
		return "", false
	}
	tag := n.ShortTag()
	plain := tag == "!!int" || tag == "!!float" || tag == "!!bool" || tag == "!!timestamp"
	switch {
	case n.Kind == yaml.ScalarNode && (tag == "!!str" || (plain && !strict)):
	case n.Kind == yaml.ScalarNode && plain:
		r.failf(n, "put it in quotes", "found %s; allowed: %s", found(n), allowed)
		return "", false
	default:
		r.mismatch(n, allowed)
		return "", false
	}
	if strings.ContainsRune(n.Value, 0) {
		r.failf(n, "", "a NUL character is not allowed")
		return "", false
	}
	return n.Value, true
}

// items returns the elements of a list.
func (r *reader) items(n *yaml.Node, allowed string) ([]*yaml.Node, bool) {
	n, ok := r.resolve(n)
	if !ok {
		return nil, false
	}
	if n.Kind != yaml.SequenceNode {
		r.mismatch(n, allowed)
		return nil, false
	}
	return n.Content, true
}

// pair is a key of a mapping and its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the content of a mapping, with "<<" merged in: a mapping's own
// keys go before merged ones, and of two merged mappings the first one wins.
func (r *reader) pairs(n *yaml.Node, allowed string) ([]pair, bool) {
	n, ok := r.resolve(n)
	if !ok {
		return nil, false
	}
	if n.Kind != yaml.MappingNode {
		r.mismatch(n, allowed)
		return nil, false
	}
	m := &merger{r: r, seen: make(map[string]int)}
	m.mapping(n, 0)
	return m.out, true
}

// merger flattens a mapping.
type merger struct {
	r    *reader
	out  []pair
	seen map[string]int // the line of each key taken
}

func (m *merger) mapping(n *yaml.Node, depth int) {
	if depth > maxMergeDepth {
		m.r.failf(n, "", "mappings are merged more than %d levels deep", maxMergeDepth)
		return
	}
	own := make(map[string]bool)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merged = append(merged, value)
			continue
		}
		m.own(own, key, value)
	}
	for _, v := range merged {
		m.merge(v, depth)
	}
}

func (m *merger) own(own map[string]bool, key, value *yaml.Node) {
	key, ok := m.r.resolve(key)
	if !ok {
		return
	}
	if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
		m.r.mismatch(key, "a key")
		return
	}
	if own[key.Value] {
		m.r.failf(key, "", "the key %q stands here a second time; the first is on line %d", key.Value, m.seen[key.Value])
		return
	}
	own[key.Value] = true
	if _, taken := m.seen[key.Value]; taken {
		return
	}
	m.seen[key.Value] = m.r.line(key)
	m.out = append(m.out, pair{key, value})
}

func (m *merger) merge(v *yaml.Node, depth int) {
	v, ok := m.r.resolve(v)
	if !ok {
		return
	}
	switch {
	case v.Kind == yaml.MappingNode:
		m.mapping(v, depth+1)
	case v.Kind == yaml.SequenceNode && depth <= maxMergeDepth:
		for _, one := range v.Content {
			m.merge(one, depth+1)
		}
	default:
		m.r.mismatch(v, "a mapping or a list of mappings to merge")
	}
}

// readYAML returns the documents of text that hold anything.
func readYAML(text *rendered, problems *collector) []*yaml.Node {
	decoder := yaml.NewDecoder(strings.NewReader(text.text))
	var docs []*yaml.Node
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			problems.yamlFailed(text, docs, err)
			return docs
		}
		if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
			docs = append(docs, doc.Content[0])
		}
	}
}

// yamlFailed reports an error of the YAML library, after docs were read. The
// error's text is the only place where the library gives the line, for some
// errors one too low and for some not at all; the report says so.
func (c *collector) yamlFailed(text *rendered, docs []*yaml.Node, err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, scanErr := fmt.Sscanf(message, "line %d:", &line); n == 1 && scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
		c.addf(text.locate(line, 0), yamlHint(text, line), "YAML, on this line or the next: %s", message)
		return
	}
	if len(docs) > 0 {
		c.addf(text.locate(docs[len(docs)-1].Line, 0), "", "YAML, after the document that begins here: %s", message)
		return
	}
	c.addf(text.locate(1, 0), "", "YAML: %s", message)
}

// yamlHint names the most common reason of a YAML error: a tab.
func yamlHint(text *rendered, line int) string {
	for n := max(line-1, 1); n <= min(line+1, len(text.lines)); n++ {
		rest, _, _ := strings.Cut(text.text[text.lines[n-1]:], "\n")
		blank := rest[:len(rest)-len(strings.TrimLeftFunc(rest, unicode.IsSpace))]
		if strings.Contains(blank, "\t") {
			return "YAML does not allow tabs for indentation"
		}
	}
	return ""
}
