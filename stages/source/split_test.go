package source

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func randomFiles(rng *rand.Rand, total int64) ([]Placed, []int64) {
	var placed []Placed
	var sizes []int64
	for sum := int64(0); sum < total; {
		size := 10<<10 + rng.Int64N(990<<10)
		placed = append(placed, Placed{Path: fmt.Sprintf("srv/app/%016x", rng.Uint64())})
		sizes = append(sizes, size)
		sum += size
	}
	return placed, sizes
}

func TestSplitTakesEveryFileOnceInAtMostMaxLayers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOf(rapid.OneOf(rapid.Int64Range(0, 1<<20), rapid.Int64Range(0, 1<<30))).Draw(t, "sizes")
		most := rapid.IntRange(1, 40).Draw(t, "max")
		placed := make([]Placed, len(sizes))
		for i := range placed {
			placed[i].Path = fmt.Sprint("f", i)
		}
		layers := Split(placed, sizes, most)
		if len(layers) > most {
			t.Fatalf("%d layers, at most %d", len(layers), most)
		}
		seen := make([]int, len(placed))
		for _, l := range layers {
			if len(l) == 0 {
				t.Fatal("an empty layer")
			}
			if !slices.IsSortedFunc(l, func(a, b int) int { return compare(placed[a].Path, placed[b].Path) }) {
				t.Fatal("a layer is not in the order of paths")
			}
			for _, i := range l {
				seen[i]++
			}
		}
		for i, n := range seen {
			if n != 1 {
				t.Fatalf("file %d is in %d layers", i, n)
			}
		}
	})
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// layerSet returns the digests of layers, with their sizes; version tells the
// contents of files apart.
func layerSet(placed []Placed, sizes []int64, version []int, most int) map[[32]byte]int64 {
	out := map[[32]byte]int64{}
	for _, l := range Split(placed, sizes, most) {
		h, sum := sha256.New(), int64(1024)
		for _, i := range l {
			fmt.Fprintln(h, placed[i].Path, sizes[i], version[i])
			sum += 512 + (sizes[i]+511)/512*512
		}
		out[[32]byte(h.Sum(nil))] = sum
	}
	return out
}

func changedShare(before, after map[[32]byte]int64) float64 {
	var changed, total int64
	for d, n := range after {
		total += n
		if _, ok := before[d]; !ok {
			changed += n
		}
	}
	return float64(changed) / float64(total)
}

func TestOneChangedFileChangesAtMostFivePercentOfALargeTree(t *testing.T) {
	tests := []struct {
		name   string
		resize float64
		add    bool
		// over is the greatest share of cases above 5 %, mean the greatest mean share of bytes.
		over, mean float64
	}{
		{name: "the content of a file changes", over: 0.005, mean: 0.05},
		{name: "its size moves by one percent", resize: 0.01, over: 0.03, mean: 0.055},
		{name: "a file is added", add: true, over: 1, mean: 0.50},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			var over, cases int
			var sum float64
			for range 40 {
				placed, sizes := randomFiles(rng, 100<<20)
				version := make([]int, len(placed))
				before := layerSet(placed, sizes, version, 24)
				for range 25 {
					p, s, v := slices.Clone(placed), slices.Clone(sizes), slices.Clone(version)
					if tt.add {
						p, s, v = append(p, Placed{Path: fmt.Sprintf("new/%x", rng.Uint64())}), append(s, rng.Int64N(1<<20)), append(v, 0)
					} else {
						i := rng.IntN(len(p))
						v[i]++
						s[i] += int64(float64(s[i]) * tt.resize * float64(1-2*rng.IntN(2)))
					}
					share := changedShare(before, layerSet(p, s, v, 24))
					sum += share
					cases++
					if share > 0.05 {
						over++
					}
				}
			}
			t.Logf("%d of %d cases above 5 %%, mean %.2f %%", over, cases, 100*sum/float64(cases))
			if got := float64(over) / float64(cases); got > tt.over {
				t.Errorf("%.2f %% of the cases change more than 5 %%", 100*got)
			}
			if got := sum / float64(cases); got > tt.mean {
				t.Errorf("the mean change is %.2f %%", 100*got)
			}
		})
	}
}

func TestSplitLeavesASmallTreeInOneLayer(t *testing.T) {
	layers := Split([]Placed{{Path: "b"}, {Path: "a"}}, []int64{1 << 20, 2 << 20}, 24)
	if len(layers) != 1 || !slices.Equal(layers[0], []int{1, 0}) {
		t.Errorf("layers %v", layers)
	}
	if got := Split(nil, nil, 24); got != nil {
		t.Errorf("no files make %v", got)
	}
}

func TestSplitIsWhatItWas(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	placed, sizes := randomFiles(rng, 60<<20)
	h := sha256.New()
	fmt.Fprint(h, Split(placed, sizes, 24))
	const want = "493b6ab10ca0d98f"
	if got := fmt.Sprintf("%x", h.Sum(nil)[:8]); got != want {
		t.Errorf("the layers of a tree changed: %s, want %s; every published layer would be made anew", got, want)
	}
}
