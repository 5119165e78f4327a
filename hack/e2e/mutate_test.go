package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// How many changed Dockerfiles are compared, and which. "make soak CASE=dockerfile"
// asks for more.
var (
	mutations    = flag.Int("mutations", 20, "how many changes of the corpus are compared")
	mutationSeed = flag.Uint64("mutation-seed", 1, "what the changes are drawn from")
)

// mutationsAtOnce is how many Dockerfiles are changed before all are built again.
const mutationsAtOnce = 20

// mutation is a change of one line of a Dockerfile.
type mutation struct {
	of   corpusCase
	what string
	// was and now are the texts of the Dockerfile.
	was, now string
}

// mutator draws changes.
type mutator struct {
	*rand.Rand
	n int // of changes so far, which tells one from the other
}

// change changes one line of a text; "" for a change that cannot be made there.
func (m *mutator) change(text string) (now, what string) {
	m.n++
	lines := strings.SplitAfter(text, "\n")
	at := m.IntN(len(lines))
	word, _, _ := strings.Cut(lines[at], " ")
	mark := fmt.Sprintf("m%d", m.n)
	insert := func(line string) (string, string) {
		return strings.Join(slices.Insert(lines, at, line+"\n"), ""), fmt.Sprintf("line %d: new: %s", at+1, line)
	}
	switch m.IntN(9) {
	case 0:
		return insert("RUN echo " + mark + " > /tmp/" + mark)
	case 1:
		return insert("ENV M=" + mark)
	case 2:
		return insert("ARG M=" + mark)
	case 3:
		return insert("LABEL m=" + mark)
	case 4:
		return insert("WORKDIR /" + mark)
	case 5:
		return insert("COPY a.txt /" + mark)
	case 6: // without the line
		gone := lines[at]
		return strings.Join(slices.Delete(lines, at, at+1), ""), fmt.Sprintf("line %d: gone: %s", at+1, strings.TrimSpace(gone))
	case 7: // two lines change places
		if at+1 >= len(lines) {
			return "", ""
		}
		lines[at], lines[at+1] = lines[at+1], lines[at]
		return strings.Join(lines, ""), fmt.Sprintf("lines %d and %d: swapped", at+1, at+2)
	default: // another value, or one more command
		switch {
		case word == "RUN" && !strings.Contains(lines[at], "<<") && !strings.HasSuffix(lines[at], "\\\n") && !strings.Contains(lines[at], "["):
			lines[at] = strings.TrimSpace(lines[at]) + "; echo " + mark + " > /tmp/" + mark + "\n"
		case word == "ENV" || word == "ARG" || word == "LABEL":
			lines[at] = strings.Replace(lines[at], "=", "="+mark, 1)
		default:
			return "", ""
		}
		return strings.Join(lines, ""), fmt.Sprintf("line %d: is now %s", at+1, strings.TrimSpace(lines[at]))
	}
}

// Every change is built upon the storage with all that was built before, and the
// result is what buildctl makes without any cache.
func TestNoChangeOfTheCorpusGivesAStaleImage(t *testing.T) {
	t.Parallel()
	p, cases := newCorpus(t)
	// Commands that look into a cache find there what they left before.
	cases = slices.DeleteFunc(cases, func(c corpusCase) bool { return c.name == "mount-cache" })
	m := &mutator{Rand: rand.New(rand.NewPCG(*mutationSeed, 0))}
	storage, yard := storageOf(t, shared.registry, ""), storageOf(t, shared.registry, "-yard")
	h := newHost(t, 0)
	first := h.build(t, p, storage)
	needless := 0
	for done := 0; done < *mutations; {
		batch := m.batch(t, p, cases, yard, min(mutationsAtOnce, *mutations-done))
		r := h.build(t, p, storage)
		for _, c := range batch {
			got, want := pull(t, r.ref(t, c.of.name)), pull(t, yard+":"+c.of.name)
			for _, d := range diffTrees(readTree(t, got), readTree(t, want)) {
				t.Errorf("%s, %s: %s", c.of.name, c.what, d)
			}
			if got, want := configOf(t, got), configOf(t, want); got != want {
				t.Errorf("%s, %s: the config is\n%s\nwant\n%s", c.of.name, c.what, got, want)
			}
			if n := ranOf(r, c.of.name); n > 0 && first.ref(t, c.of.name) == r.ref(t, c.of.name) {
				needless++
				t.Logf("needless: %s, %s: %d groups were built, and the image is the same", c.of.name, c.what, n)
			}
			p.write(t, "d/"+c.of.name, c.was)
		}
		done += len(batch)
	}
	t.Logf("%d changes, %d needless rebuilds", *mutations, needless)
}

// batch changes some Dockerfiles and has buildctl build them. What buildctl refuses is
// no change.
func (m *mutator) batch(t *testing.T, p *project, cases []corpusCase, yard string, n int) []mutation {
	t.Helper()
	var out []mutation
	for _, i := range m.Perm(len(cases)) {
		if len(out) == n {
			break
		}
		c := cases[i]
		data, err := os.ReadFile(filepath.Join(p.dir, "d", c.name))
		if err != nil {
			t.Fatal(err)
		}
		was := string(data)
		for range 10 {
			now, what := m.change(was)
			if now == "" || now == was {
				continue
			}
			p.write(t, "d/"+c.name, now)
			if err := tryBuildctl(t, p.dir, yard+":"+c.name, c.local(p)); err == nil {
				out = append(out, mutation{of: c, what: what, was: was, now: now})
				break
			}
			p.write(t, "d/"+c.name, was)
		}
	}
	p.commit(t)
	return out
}

// ranOf returns how many stages of an image the engine made.
func ranOf(r report, image string) int {
	n := 0
	for _, i := range r.Images {
		for _, s := range i.Stages {
			if i.Name == image && s.Result == "built" {
				n++
			}
		}
	}
	return n
}
