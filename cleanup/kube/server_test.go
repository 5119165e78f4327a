package kube

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/stages"
)

// used is the digest of the stage that an object of the test uses.
func used(what string) stages.Digest { return stages.DigestOf([]byte("used by " + what)) }

// objects are what is put into the cluster, each with an image of its own.
func objects(t *testing.T) (manifest string, all []string) {
	t.Helper()
	image := func(what string) string {
		all = append(all, what)
		return "mirror.test/y@" + used(what).String()
	}
	containers := func(what string) string {
		return fmt.Sprintf("{metadata: {labels: {a: b}}, spec: {restartPolicy: Always, containers: [{name: a, image: %q}]}}", image(what))
	}
	selector := "selector: {matchLabels: {a: b}}"
	job := strings.ReplaceAll(containers("Job"), "Always", "Never")
	cron := strings.ReplaceAll(containers("CronJob"), "Always", "Never")
	docs := []string{
		fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: %q}], initContainers: [{name: b, image: %q}]}}", image("Pod"), image("init container")),
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {" + selector + ", template: " + containers("Deployment") + "}}",
		"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, spec: {replicas: 0, " + selector + ", template: " + containers("ReplicaSet") + "}}",
		"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: s, " + selector + ", template: " + containers("StatefulSet") + "}}",
		"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: s}, spec: {" + selector + ", template: " + containers("DaemonSet") + "}}",
		"{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {template: " + job + "}}",
		"{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {schedule: '0 0 * * *', jobTemplate: {spec: {template: " + cron + "}}}}",
		"{apiVersion: v1, kind: Secret, type: helm.sh/release.v1, metadata: {name: sh.helm.release.v1.web.v1}, data: {release: " + base64.StdEncoding.EncodeToString([]byte(packed(t, `{"manifest":"image: `+image("Helm")+`"}`))) + "}}",
		"{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: other}, stringData: {image: \"" + used("nobody").Hex() + "\"}}",
		"{apiVersion: example.test/v1, kind: Thing, metadata: {name: t}, spec: {runtime: {repository: y, tag: \"" + used("Thing").Hex() + "\"}}}",
	}
	return strings.Join(docs, "\n---\n"), append(all, "Thing")
}

const thingDefinition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.example.test},
 spec: {group: example.test, scope: Namespaced, names: {plural: things, singular: thing, kind: Thing},
 versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`

func apply(t *testing.T, c *testbed.Cluster, space, manifest string, more ...string) {
	t.Helper()
	cmd := c.Kubectl(t.Context(), append([]string{"apply", "-n", space, "-f", "-"}, more...)...)
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestRealServer(t *testing.T) {
	c := testbed.NewCluster(t, testbed.ClusterOptions{})
	space := fmt.Sprintf("use-%x", time.Now().UnixMilli())
	apply(t, c, "default", "{apiVersion: v1, kind: Namespace, metadata: {name: "+space+"}}")
	apply(t, c, space, thingDefinition)
	if out, err := c.Kubectl(t.Context(), "wait", "--for=condition=Established", "crd/things.example.test").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, all := objects(t)
	apply(t, c, space, manifest)
	all = append(all, "ephemeral container")
	if out, err := c.Kubectl(t.Context(), "debug", "p", "-n", space, "-c", "e", "--image=mirror.test/y@"+used("ephemeral container").String()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	known := append(slices.Clone(all), "nobody")
	q := Query{Names: []string{"registry.test/shop"}, PageSize: 1, Known: func(d stages.Digest) bool {
		for _, what := range known {
			if d == used(what) {
				return true
			}
		}
		return false
	}}
	t.Run("everything that is used is found", func(t *testing.T) {
		found, failed, err := Read(t.Context(), Cluster{"test", c.Config()}, q)
		if err != nil || len(failed) > 0 {
			t.Fatalf("%v, %v", failed, err)
		}
		places := make(map[stages.Digest]string)
		for _, m := range found {
			places[m.Digest] = m.Where
		}
		for _, what := range all {
			if places[used(what)] == "" {
				t.Errorf("the image of the %s is not found", what)
			}
		}
		if places[used("nobody")] != "" {
			t.Errorf("a secret of somebody was read: %s", places[used("nobody")])
		}
		if got := places[used("Thing")]; !strings.HasPrefix(got, "Thing "+space+"/t (spec.runtime.tag)") {
			t.Errorf("the custom resource is told as %q", got)
		}
	})
	t.Run("a user without rights is told which he lacks", func(t *testing.T) {
		config, err := c.User("nobody-" + space)
		if err != nil {
			t.Fatal(err)
		}
		_, failed, err := Read(t.Context(), Cluster{"test", config}, q)
		lacks := make(map[string]bool)
		for _, f := range failed {
			lacks[f.Resource] = f.Denied()
		}
		if err != nil || !lacks["pods"] || !lacks["deployments.apps"] || !lacks["things.example.test"] || !lacks["secrets"] {
			t.Errorf("%v (%v)", failed, err)
		}
	})
	t.Run("a proxy that fails makes what it hides unread", func(t *testing.T) {
		config := through(t, c.Config(), func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, "/deployments") && r.URL.Query().Has("continue") || strings.HasSuffix(r.URL.Path, "/jobs")
		})
		found, failed, err := Read(t.Context(), Cluster{"test", config}, q)
		if err != nil || len(found) == 0 || len(failed) == 0 || failed[0].Denied() {
			t.Errorf("%d found, %v (%v)", len(found), failed, err)
		}
	})
}

// through returns access by way of a proxy that answers some requests itself: badly.
func through(t *testing.T, config *rest.Config, fails func(*http.Request) bool) *rest.Config {
	t.Helper()
	to, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = transport
	return api(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, r *http.Request) {
		if fails(r) {
			http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}}).Config
}
