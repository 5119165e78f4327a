package engine

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strings"
	"sync"
)

const (
	// maskText stands where a secret was.
	maskText = "***"
	// minMasked is the length of the shortest value that is masked: a shorter one is
	// no secret, and stands in any output by chance.
	minMasked = 4
)

// masks are the values that must not be shown. Their zero value masks nothing.
type masks struct {
	mu sync.Mutex
	// values are sorted, the longest first: it may hold another one.
	values [][]byte
}

// add has a value masked, and when it has several lines, each of them: output is
// shown line by line.
func (m *masks) add(value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for line := range bytes.Lines(value) {
		line = bytes.TrimSpace(line)
		known := slices.ContainsFunc(m.values, func(v []byte) bool { return bytes.Equal(v, line) })
		if len(line) >= minMasked && !known {
			m.values = append(m.values, slices.Clone(line))
		}
	}
	slices.SortStableFunc(m.values, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) })
}

// addPassword has the password of an address masked, as it is written there and
// as it is meant.
func (m *masks) addPassword(address string) {
	password := written(address)
	m.add([]byte(password))
	if plain, err := url.PathUnescape(password); err == nil {
		m.add([]byte(plain))
	}
}

// apply returns text without the values, and may change it in place.
func (m *masks) apply(text []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.values {
		text = bytes.ReplaceAll(text, v, []byte(maskText))
	}
	return text
}

// longest returns the length of the longest value.
func (m *masks) longest() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.values) == 0 {
		return 0
	}
	return len(m.values[0])
}

// written returns the password of an address as it stands there, "" when there is none.
func written(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	authority, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndex(authority, "@")
	if at < 0 {
		return ""
	}
	_, password, _ := strings.Cut(authority[:at], ":")
	return password
}
