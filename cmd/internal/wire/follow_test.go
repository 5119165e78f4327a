package wire

import (
	"slices"
	"testing"

	"github.com/cairnbuild/cairn/synchronization"
)

// Misses look into all storages that were left and whose grace lasts, the last one
// first, and not into the one that is there.
func TestAWayAlongSeveralSwitches(t *testing.T) {
	hop := func(to string) synchronization.Move {
		return synchronization.Move{To: synchronization.Place{Storage: to, Ledger: "kubernetes://ci", UID: to}}
	}
	const b, c = "registry.test/shop/first", "registry.test/shop/second"
	for name, test := range map[string]struct {
		to    []string
		grace []bool
		want  []string
	}{
		"one hop":                          {[]string{b}, []bool{true}, []string{Local}},
		"two hops":                         {[]string{b, c}, []bool{true, true}, []string{b, Local}},
		"the first grace is over":          {[]string{b, c}, []bool{false, true}, []string{b}},
		"the last grace is over":           {[]string{b, c}, []bool{true, false}, []string{Local}},
		"there and back":                   {[]string{b, Local}, []bool{true, true}, []string{b}},
		"there, back, and there once more": {[]string{b, Local, b}, []bool{true, true, true}, []string{Local}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Settings{Storage: Local}
			for i, to := range test.to {
				before := slices.Clone(s.followed.before)
				next, err := s.follow(hop(to), test.grace[i])
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(before, s.followed.before) {
					t.Errorf("the settings that were left have become %v", s.followed.before)
				}
				s = next
			}
			if !slices.Equal(s.followed.before, test.want) || !s.followed.local {
				t.Errorf("misses look into %v", s.followed.before)
			}
		})
	}
}
