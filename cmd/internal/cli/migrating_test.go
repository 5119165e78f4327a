package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages/config"
)

// A guide whose examples do not load leads nowhere.
func TestEverySnippetOfTheMigrationGuideLoads(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "migrating.md"))
	if err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```yaml ?([a-z.]*)\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(snippets) < 3 || strings.Count(string(b), "```") != 2*len(snippets) {
		t.Fatalf("%d snippets of YAML", len(snippets))
	}
	for _, s := range snippets {
		file := s[1]
		if file == "" {
			file = "cairn.yaml"
		}
		p, err := config.Load(t.Context(), config.Input{Path: file, Data: []byte(s[2])})
		if err != nil {
			t.Errorf("%v in\n%s", err, s[2])
			continue
		}
		if len(p.Warnings) > 0 {
			t.Errorf("%v in\n%s", p.Warnings, s[2])
		}
	}
}
