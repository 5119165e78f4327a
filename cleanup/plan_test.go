package cleanup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

// now is when all tests run.
func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// stageOf is the digest of a stage by a word.
func stageOf(word string) stages.Digest { return stages.DigestOf([]byte("stage " + word)) }

func blob(word string, size int64) inventory.Blob {
	return inventory.Blob{Digest: digest.FromString(word), Size: size}
}

// shelf makes inventories.
type shelf struct {
	inv   *inventory.Inventory
	words map[string]string // what tags stand for
}

func newShelf() *shelf {
	s := &shelf{inv: &inventory.Inventory{Address: "registry.test/shop", Manifests: map[digest.Digest]*inventory.Manifest{}}, words: map[string]string{}}
	s.name(storage.ProjectTag, inventory.KindMarker, &inventory.Manifest{Digest: digest.FromString("marker"), Size: 1}, 100)
	return s
}

func (s *shelf) name(tag string, kind inventory.Kind, m *inventory.Manifest, hours int) {
	n := inventory.Name{Tag: tag, Kind: kind, Manifest: m, Seen: now().Add(-time.Duration(hours) * time.Hour)}
	if m != nil {
		s.inv.Manifests[m.Digest] = m
	} else if kind != inventory.KindForeign {
		n.Broken = storage.ErrNotFound
	}
	s.inv.Names = append(s.inv.Names, n)
	slices.SortFunc(s.inv.Names, func(a, b inventory.Name) int { return strings.Compare(a.Tag, b.Tag) })
}

// stage adds a stage with layers of ten bytes each.
func (s *shelf) stage(word, layers string, hours int) *inventory.Manifest {
	m := &inventory.Manifest{Digest: digest.FromString("manifest " + word), Size: 1, Config: blob("config "+word, 2)}
	for l := range strings.FieldsSeq(layers) {
		m.Layers = append(m.Layers, blob(l, 10))
	}
	s.words[stageOf(word).Hex()] = word
	s.name(storage.StageTag(stageOf(word)), inventory.KindStage, m, hours)
	return m
}

// build adds the index of a build of images "name:stage".
func (s *shelf) build(word, images string, hours int) *inventory.Manifest {
	m := &inventory.Manifest{Digest: digest.FromString("index " + word), Size: 1, Index: true}
	for one := range strings.FieldsSeq(images) {
		image, stage, _ := strings.Cut(one, ":")
		m.Members = append(m.Members, inventory.Member{Digest: digest.FromString("manifest " + stage), Image: image, Stage: stageOf(stage), Platform: "linux/amd64"})
	}
	s.words[storage.BuildTag(stageOf(word))] = word
	s.name(storage.BuildTag(stageOf(word)), inventory.KindBuild, m, hours)
	return m
}

// shop holds two builds of a web image and an api image, and a stage that nobody
// knows.
func shop() *shelf {
	s := newShelf()
	s.stage("base", "b", 100)
	s.stage("deps", "b d", 100)
	s.stage("web1", "b d w1", 100)
	s.stage("web2", "b d w2", 90)
	s.stage("api1", "b a1", 100)
	s.stage("lost", "x", 100)
	s.build("one", "web:web1 api:api1", 100)
	s.build("two", "web:web2 api:api1", 90)
	return s
}

// two is the commit of the second build.
func two() Commit {
	return Commit{ID: "2222222222222222", Why: "tip of branch main", Images: []Image{
		{"web", "linux/amd64", []stages.Digest{stageOf("base"), stageOf("deps"), stageOf("web2")}},
		{"api", "linux/amd64", []stages.Digest{stageOf("base"), stageOf("api1")}},
	}}
}

func (s *shelf) input(commits ...Commit) Input {
	return Input{Inventory: s.inv, Commits: commits, Now: now()}
}

// goes names what a decision removes.
func (s *shelf) goes(d Decision) string {
	var out []string
	for _, v := range d.Verdicts {
		if !v.Keep {
			out = append(out, s.words[v.Tag])
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (s *shelf) reasons(t *testing.T, d Decision, word string) []Reason {
	t.Helper()
	for _, v := range d.Verdicts {
		if s.words[v.Tag] == word || v.Tag == word {
			return v.Reasons
		}
	}
	t.Fatalf("there is no verdict about %s", word)
	return nil
}

func TestWhatStaysAndWhatGoes(t *testing.T) {
	anything := Commit{Why: "tip of branch old", Unplanned: []Unplanned{{Any: true, Why: "cairn.yaml:3: unknown key"}}}
	for name, c := range map[string]struct {
		change func(s *shelf, in *Input)
		goes   string
		// stays has a word, and the code that it is to be kept by.
		stays string
		code  Code
	}{
		"a kept commit keeps its stages and its build": {nil, "lost one web1", "two", Planned},
		"what a cluster uses by a manifest's digest": {func(_ *shelf, in *Input) {
			in.InUse = []Mention{{Digest: stages.DigestOf([]byte("manifest web1")), Where: "pod shop/web"}}
		}, "lost one", "web1", InUse},
		"what a cluster uses by a stage's tag": {func(_ *shelf, in *Input) {
			in.InUse = []Mention{{Digest: stageOf("web1"), Where: "pod shop/web"}}
		}, "lost one", "web1", InUse},
		"an index in use keeps what it lists": {func(_ *shelf, in *Input) {
			in.InUse = []Mention{{Digest: stages.DigestOf([]byte("index one")), Where: "pod shop/web"}}
		}, "lost", "web1", Member},
		"the keep list": {func(s *shelf, in *Input) {
			in.Listed = []Mention{{Tag: storage.StageTag(stageOf("lost")), Where: "keep.txt:1"}}
		}, "one web1", "lost", KeepList},
		"parents of what is kept, by their layers": {func(_ *shelf, in *Input) {
			in.Commits, in.InUse = nil, []Mention{{Digest: stageOf("web1"), Where: "pod shop/web"}}
		}, "api1 lost one two web2", "deps", Parent},
		"a tag of somebody else on the same manifest": {func(s *shelf, in *Input) {
			s.name("v1.0", inventory.KindForeign, nil, 100)
			in.Named = map[string]digest.Digest{"v1.0": digest.FromString("manifest web1")}
		}, "lost one", "web1", Tagged},
		"a tag of somebody else on an index": {func(s *shelf, in *Input) {
			s.name("v1.0", inventory.KindForeign, nil, 100)
			in.Named = map[string]digest.Digest{"v1.0": digest.FromString("index one")}
		}, "lost", "web1", Tagged},
		"what was seen first a short while ago": {func(_ *shelf, in *Input) {
			in.KeepBuiltWithin = 95 * time.Hour
		}, "lost one web1", "two", Planned},
		"all that is not older": {func(_ *shelf, in *Input) {
			in.Commits, in.AllowEmptyKeep, in.KeepBuiltWithin = nil, true, 95*time.Hour
		}, "lost one web1", "two", Young},
		"what has no known age": {func(s *shelf, in *Input) {
			in.KeepBuiltWithin = time.Hour
			for i := range s.inv.Names {
				s.inv.Names[i].Seen = time.Time{}
			}
		}, "", "lost", Young},
		"what is being built": {func(_ *shelf, in *Input) {
			in.Entries = map[stages.Digest]synchronization.Entry{stageOf("lost"): {State: synchronization.Publishing}}
		}, "one web1", "lost", InFlight},
		"what a build that was just published lists": {func(_ *shelf, in *Input) {
			in.Entries = map[stages.Digest]synchronization.Entry{stageOf("one"): {State: synchronization.Published}}
		}, "lost", "web1", Member},
		"not what a cleaner has marked": {func(_ *shelf, in *Input) {
			in.Entries = map[stages.Digest]synchronization.Entry{stageOf("lost"): {State: synchronization.Doomed}}
		}, "lost one web1", "two", Planned},
		"all that may be of a commit that cannot be planned": {func(_ *shelf, in *Input) {
			in.Commits = append(in.Commits, anything)
		}, "", "one", Unplannable},
		"stages of which no build tells": {func(_ *shelf, in *Input) {
			in.Commits = append(in.Commits, anything)
		}, "", "lost", Unplannable},
		"not what contradicts an image that can be planned": {func(_ *shelf, in *Input) {
			c := two()
			c.ID, c.Images, c.Unplanned = "3", c.Images[:1], []Unplanned{{Name: "api", Why: "its base is not pinned"}}
			in.Commits = append(in.Commits, c)
		}, "one web1", "lost", Unplannable},
		"all that an open history may tell of": {func(_ *shelf, in *Input) {
			in.Open = []string{"the history of branch main is cut"}
		}, "", "web1", Member},
		"everything while a cluster cannot be read": {func(_ *shelf, in *Input) {
			in.Unread = []string{"the cluster prod cannot be read"}
		}, "", "lost", Unread},
		"a tag that cannot be read": {func(s *shelf, _ *Input) {
			tag := storage.StageTag(stageOf("broken"))
			s.words[tag] = "broken"
			s.name(tag, inventory.KindStage, nil, 100)
		}, "lost one web1", "broken", Broken},
	} {
		t.Run(name, func(t *testing.T) {
			s := shop()
			in := s.input(two())
			if c.change != nil {
				c.change(s, &in)
			}
			d, err := Plan(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.goes(d); got != c.goes {
				t.Errorf("goes %q, want %q", got, c.goes)
			}
			if r := s.reasons(t, d, c.stays); r[0].Code != c.code {
				t.Errorf("%s is kept by %v, want %s", c.stays, r, c.code)
			}
		})
	}
}

func TestBytesAreCountedOnce(t *testing.T) {
	s := shop()
	d, err := Plan(s.input(two()))
	if err != nil {
		t.Fatal(err)
	}
	// web1 and lost have a manifest, a config and a layer of their own; an index is
	// one byte.
	if d.Freed != 13+13+1 {
		t.Errorf("%d bytes are freed", d.Freed)
	}
	totals := make(map[Code]Total)
	for _, total := range d.Totals {
		totals[total.Code] = total
	}
	for code, want := range map[Code]Total{
		DeadBuilds: {DeadBuilds, false, 1, 0}, // the index that goes lists it as well
		NoBuild:    {NoBuild, false, 1, 13}, Unreferenced: {Unreferenced, false, 1, 1}, Marker: {Marker, true, 1, 1 + 0},
	} {
		if totals[code] != want {
			t.Errorf("total %+v, want %+v", totals[code], want)
		}
	}
}

func TestAPlanThatKeepsNothingIsRefused(t *testing.T) {
	s := shop()
	in := s.input()
	in.KeepBuiltWithin = 95 * time.Hour // an age is no reason to go on
	d, err := Plan(in)
	if !errors.Is(err, ErrKeepsNothing) || len(d.Remove) == 0 {
		t.Errorf("%v, %d go", err, len(d.Remove))
	}
	in.AllowEmptyKeep = true
	if _, err := Plan(in); err != nil {
		t.Errorf("when it is allowed: %v", err)
	}
	if _, err := Plan(newShelf().input()); err != nil {
		t.Errorf("of an empty storage: %v", err)
	}
}

func TestRemovalsSayWhatTheyStandOn(t *testing.T) {
	s := shop()
	d, err := Plan(Input{Inventory: s.inv, Now: now(), AllowEmptyKeep: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range d.Remove {
		var on []string
		for _, o := range r.On {
			on = append(on, s.words[o.Hex()])
		}
		want := map[string]string{"web1": "base deps", "one": "web1 api1", "base": ""}
		if w, ok := want[s.words[r.Tag()]]; ok && strings.Join(on, " ") != w {
			t.Errorf("%s is on %v, want %s", s.words[r.Tag()], on, w)
		}
	}
}

func TestForeignTagsAndMissingMentionsAreNamed(t *testing.T) {
	s := shop()
	s.name("latest", inventory.KindForeign, nil, 1)
	in := s.input(two())
	in.InUse = []Mention{{Tag: "v9", Where: "deployment shop/web"}}
	d, err := Plan(in)
	if err != nil || !slices.Equal(d.Foreign, []string{"latest"}) || len(d.Missing) != 1 {
		t.Errorf("%v, foreign %v, missing %v", err, d.Foreign, d.Missing)
	}
	if r := s.reasons(t, d, "latest"); r[0].Code != Foreign {
		t.Errorf("latest: %v", r)
	}
}

// Whatever is kept, what it lists is kept with it, and more to keep never has
// something else removed.
func TestKeepingIsClosedAndMonotone(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		s := randomShelf(rnd)
		in := s.input()
		in.AllowEmptyKeep = true
		for i := range rnd.IntN(3) {
			in.InUse = append(in.InUse, Mention{Digest: stageOf(fmt.Sprint("s", rnd.IntN(8))), Where: fmt.Sprint("pod ", i)})
		}
		before, err := Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		s.checkClosed(t, before)
		in.Commits = append(in.Commits, Commit{Why: "tip", Images: []Image{{Name: "i0", Stages: []stages.Digest{stageOf("s1"), stageOf("s2")}}},
			Unplanned: []Unplanned{{Name: "i1", Why: "?"}}})
		after, err := Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		s.checkClosed(t, after)
		for i := range before.Verdicts {
			// What a stage stands on is guessed by layers only as long as no commit plans it.
			guessed := before.Verdicts[i].Reasons[0].Code == Parent
			if before.Verdicts[i].Keep && !after.Verdicts[i].Keep && !guessed {
				t.Fatalf("%s goes only since more is kept", s.words[before.Verdicts[i].Tag])
			}
		}
	}
}

func randomShelf(rnd *rand.Rand) *shelf {
	s := newShelf()
	for i := range 8 {
		layers := "a b c d"[:2*rnd.IntN(4)]
		s.stage(fmt.Sprint("s", i), layers+" "+fmt.Sprint("l", rnd.IntN(5)), 5)
	}
	for i := range rnd.IntN(6) {
		s.build(fmt.Sprint("b", i), fmt.Sprintf("i0:s%d i1:s%d", rnd.IntN(8), rnd.IntN(8)), 5)
	}
	return s
}

func (s *shelf) checkClosed(t *testing.T, d Decision) {
	t.Helper()
	kept := make(map[string]bool)
	for _, v := range d.Verdicts {
		kept[v.Tag] = v.Keep
		if len(v.Reasons) == 0 {
			t.Fatalf("no reason for %s", v.Tag)
		}
	}
	for _, n := range s.inv.Names {
		for _, m := range n.Manifest.Members {
			if kept[n.Tag] && !kept[m.Stage.Hex()] {
				t.Fatalf("%s is kept and lists %s, which goes", n.Tag, s.words[m.Stage.Hex()])
			}
		}
	}
}

// A project of the size that a plan is to be made of within seconds.
func BenchmarkPlanOf20000Stages(b *testing.B) {
	s := newShelf()
	var in Input
	for i := range 2000 {
		var layers []string
		for j := range 9 {
			layers = append(layers, fmt.Sprintf("l%d-%d", i/(1+j*j), j))
			s.inv.Names = append(s.inv.Names, s.lone(fmt.Sprintf("s%d-%d", i, j), strings.Join(layers, " ")))
		}
		last := fmt.Sprintf("s%d-8", i)
		m := &inventory.Manifest{Digest: digest.FromString("index " + last), Size: 1, Index: true,
			Members: []inventory.Member{{Digest: digest.FromString("manifest " + last), Image: "web", Stage: stageOf(last)}}}
		s.inv.Manifests[m.Digest] = m
		s.inv.Names = append(s.inv.Names, inventory.Name{Tag: storage.BuildTag(stageOf("b" + last)), Kind: inventory.KindBuild, Manifest: m, Seen: now().Add(-time.Hour)})
		if i%40 == 0 {
			in.Commits = append(in.Commits, Commit{ID: last, Why: "tip", Images: []Image{{Name: "web", Stages: []stages.Digest{stageOf(last)}}}})
		}
	}
	slices.SortFunc(s.inv.Names, func(a, b inventory.Name) int { return strings.Compare(a.Tag, b.Tag) })
	in.Inventory, in.Now = s.inv, now()
	for b.Loop() {
		if _, err := Plan(in); err != nil {
			b.Fatal(err)
		}
	}
}

// lone returns the name of a stage, not sorted in.
func (s *shelf) lone(word, layers string) inventory.Name {
	m := &inventory.Manifest{Digest: digest.FromString("manifest " + word), Size: 1, Config: blob("config "+word, 2)}
	for l := range strings.FieldsSeq(layers) {
		m.Layers = append(m.Layers, blob(l, 10))
	}
	s.inv.Manifests[m.Digest] = m
	return inventory.Name{Tag: storage.StageTag(stageOf(word)), Kind: inventory.KindStage, Manifest: m, Seen: now().Add(-time.Hour)}
}
