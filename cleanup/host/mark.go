package host

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Volume is the state of the volume that holds a host's cache, in bytes.
type Volume struct {
	// Total is its capacity.
	Total int64
	// Used is what all data on it takes, Cairn's and other.
	Used int64
}

// Share is the used part of the volume, 0 to 1.
func (v Volume) Share() float64 {
	if v.Total <= 0 {
		return 0
	}
	return float64(v.Used) / float64(v.Total)
}

// Mark is a fill level of a volume: a share of it or a number of bytes.
type Mark struct {
	share float64
	bytes int64
}

// ErrMark says that a text is no mark.
var ErrMark = errors.New("want a share such as 80% or a size such as 200GiB")

// size is a unit of sizes.
type size struct {
	suffix string
	bytes  float64
}

// sizes are those that df and Kubernetes write: decimal ones, and binary ones with
// an i. A bare letter is binary.
func sizes() []size {
	return []size{
		{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
		{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1},
	}
}

// ParseMark reads "80%" or a number of bytes with an optional unit: "200GiB",
// "200G" (the same), "200GB" (decimal).
func ParseMark(s string) (Mark, error) {
	if number, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || !(f > 0 && f <= 100) {
			return Mark{}, fmt.Errorf("%q: %w", s, ErrMark)
		}
		return Mark{share: f / 100}, nil
	}
	number, unit := strings.ToUpper(s), 1.0
	for _, u := range sizes() {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = n, u.bytes
			break
		}
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(f*unit >= 1) || f*unit >= math.MaxInt64 {
		return Mark{}, fmt.Errorf("%q: %w", s, ErrMark)
	}
	return Mark{bytes: int64(f * unit)}, nil
}

// Of returns the mark in bytes of v.
func (m Mark) Of(v Volume) int64 {
	if m.bytes > 0 {
		return m.bytes
	}
	return int64(m.share * float64(v.Total))
}

// String returns the mark as [ParseMark] reads it.
func (m Mark) String() string {
	if m.bytes > 0 {
		return strconv.FormatInt(m.bytes, 10)
	}
	return strconv.FormatFloat(m.share*100, 'f', -1, 64) + "%"
}

// Marks are the levels between which a volume is kept.
type Marks struct {
	// High starts an eviction when the volume is fuller, Low ends it.
	High, Low Mark
}

// Check reports marks that make no sense on v.
func (m Marks) Check(v Volume) error {
	if low, high := m.Low.Of(v), m.High.Of(v); low > high {
		return fmt.Errorf("the low mark %s is above the high mark %s", m.Low, m.High)
	}
	return nil
}
