package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// The pod of docs/engines.md is one that an API server takes, with no field that
// it does not know.
func TestThePodOfTheDocumentsIsValid(t *testing.T) {
	t.Parallel()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "engines.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if found == nil {
		t.Fatal("docs/engines.md has no YAML")
	}
	spec := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(spec, found[1], 0o600); err != nil {
		t.Fatal(err)
	}
	cluster := testbed.NewCluster(t, testbed.ClusterOptions{})
	out, err := cluster.Kubectl(t.Context(), "apply", "--dry-run=server", "--validate=strict", "-f", spec).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pod/cairn-build created (server dry run)") {
		t.Errorf("kubectl: %v: %s", err, out)
	}
	if strings.Contains(string(found[1]), "privileged: true") {
		t.Error("it is privileged")
	}
}
