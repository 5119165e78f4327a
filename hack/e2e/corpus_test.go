package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// fewest is how many Dockerfiles the corpus has at least, those of testdata/dockerfiles
// apart.
const fewest = 60

// corpusCase is a Dockerfile of the corpus with its options.
type corpusCase struct {
	name string
	// keys are lines of its image's configuration, options are for buildctl.
	keys, options []string
}

// newCorpus makes a project with an image for each Dockerfile of the corpus.
func newCorpus(t *testing.T) (*project, []corpusCase) {
	t.Helper()
	p := emptyProject(t)
	var cases []corpusCase
	config := "project: corpus\n"
	for _, f := range txtar.Parse([]byte(expand(t, readTestdata(t, "corpus.txtar"), shared.registry))).Files {
		p.write(t, f.Name, string(f.Data))
		dir, name := filepath.Split(f.Name)
		if dir != "d/" || strings.HasSuffix(name, ".dockerignore") {
			continue
		}
		c := corpusCase{name: name}
		c.read(string(f.Data))
		cases = append(cases, c)
		config += fmt.Sprintf("---\nimage: %s\ndockerfile: d/%s\ncontext: ctx\n%s", name, name, strings.Join(c.keys, ""))
	}
	p.write(t, "cairn.yaml", config)
	if err := os.Chmod(filepath.Join(p.dir, "ctx", "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.commit(t)
	return p, cases
}

// read finds the options in a Dockerfile.
func (c *corpusCase) read(text string) {
	var args []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "# test: ")
		if !ok {
			continue
		}
		word, value, _ := strings.Cut(rest, " ")
		switch word {
		case "arg":
			name, v, _ := strings.Cut(value, "=")
			args = append(args, fmt.Sprintf("  %s: %q\n", name, v))
			c.options = append(c.options, "--opt", "build-arg:"+value)
		case "target":
			c.keys = append(c.keys, "target: "+value+"\n")
			c.options = append(c.options, "--opt", "target="+value)
		case "network":
			c.keys = append(c.keys, "network: "+value+"\n")
			c.options = append(c.options, "--opt", "force-network-mode="+value)
		case "staged":
			c.keys = append(c.keys, "staged: "+value+"\n")
		case "host":
			c.keys = append(c.keys, "addHost: ["+value+"]\n")
			name, address, _ := strings.Cut(value, ":")
			c.options = append(c.options, "--opt", "add-hosts="+name+"="+address)
		}
	}
	if len(args) > 0 {
		c.keys = append(c.keys, "args:\n"+strings.Join(args, ""))
	}
}

// local are the options with which buildctl builds it.
func (c *corpusCase) local(p *project) []string {
	return append([]string{
		"--local", "context=" + filepath.Join(p.dir, "ctx"), "--local", "dockerfile=" + filepath.Join(p.dir, "d"),
		"--opt", "filename=" + c.name,
	}, c.options...)
}

func TestTheCorpusLikeBuildctl(t *testing.T) {
	t.Parallel()
	p, cases := newCorpus(t)
	if len(cases) < fewest {
		t.Fatalf("the corpus has %d Dockerfiles", len(cases))
	}
	list, err := os.ReadFile(filepath.Join("..", "..", "docs", "dockerfiles.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if !strings.Contains(string(list), "| `"+c.name+"` |") {
			t.Errorf("docs/dockerfiles.md does not list %s", c.name)
		}
	}
	r := newHost(t, 0).build(t, p, storageOf(t, shared.registry, ""))
	yard := storageOf(t, shared.registry, "-yard")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, want := pull(t, r.ref(t, c.name)), buildctl(t, p.dir, yard+":"+c.name, c.local(p))
			for _, d := range diffTrees(readTree(t, got), readTree(t, want)) {
				t.Error(d)
			}
			if got, want := configOf(t, got), configOf(t, want); got != want {
				t.Errorf("the config is\n%s\nwant\n%s", got, want)
			}
			if got, want := onBuild(t, got), onBuild(t, want); !slices.Equal(got, want) {
				t.Errorf("the triggers are %q, want %q", got, want)
			}
		})
	}
}
