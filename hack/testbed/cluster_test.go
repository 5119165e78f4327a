package testbed_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
)

func TestAClusterForgetsNothingInACrash(t *testing.T) {
	c := testbed.NewCluster(t, testbed.ClusterOptions{})
	if out, err := c.Kubectl(t.Context(), "create", "namespace", "kept").CombinedOutput(); err != nil {
		t.Fatalf("kubectl: %v: %s", err, out)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, c, c.Config(), "/api/v1/namespaces/kept"); code != http.StatusOK || !strings.Contains(body, `"kept"`) {
		t.Errorf("the administrator gets %d %s", code, body)
	}
	user, err := c.User("somebody")
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, c, user, "/api/v1/namespaces/kept"); code != http.StatusForbidden || !strings.Contains(body, "somebody") {
		t.Errorf("a user without rights gets %d %s", code, body)
	}
	if _, body := get(t, c, user, "/version"); !strings.Contains(body, `"gitVersion": "v1.`) {
		t.Errorf("the version is %s", body)
	}
}

func get(t *testing.T, c *testbed.Cluster, config *rest.Config, path string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Config().Host+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
