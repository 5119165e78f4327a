// Package chart_test holds the chart that installs cairnd to what it says.
package chart_test

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"

	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

const dir = "cairnd"

var update = flag.Bool("update", false, "write the golden files anew")

// variants are the values that the chart is tried with.
func variants(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d variants, %v", len(files), err)
	}
	out := map[string]map[string]any{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".yaml")] = parse(t, string(text))
	}
	return out
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// render returns what the chart makes of values, file by file in their order.
func render(values map[string]any) (string, error) {
	c, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	release := common.ReleaseOptions{Name: "builder", Namespace: "ci", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, values, release, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if text := strings.TrimSpace(files[name]); text != "" {
			b.WriteString("--- # " + name + "\n" + text + "\n")
		}
	}
	return b.String(), nil
}

// objects are the documents of a text, in its order.
func objects(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for doc := range strings.SplitSeq(text, "\n---") {
		if strings.Contains(doc, "NOTES.txt") {
			continue
		}
		if object := parse(t, strings.TrimPrefix(doc, "---")); len(object) > 0 {
			out = append(out, object)
		}
	}
	return out
}

func TestEveryVariantLintsAndRendersAsBefore(t *testing.T) {
	for name, values := range variants(t) {
		t.Run(name, func(t *testing.T) {
			lint := action.NewLint()
			lint.Strict, lint.Namespace = true, "ci"
			if r := lint.Run([]string{dir}, values); action.HasWarningsOrErrors(r) {
				t.Errorf("lint: %v %v", r.Messages, r.Errors)
			}
			got, err := render(values)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "golden", name+".yaml")
			if *update {
				if err := errors.Join(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || !bytes.Equal(want, []byte(got)) {
				t.Errorf("it is not what %s has (-update writes it): %v\n%s", golden, err, got)
			}
		})
	}
}

// A key that no variant gives another value than its default is not tried.
func TestTheVariantsTryEveryValue(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defaults := leaves("", parse(t, string(text)))
	tried := map[string]bool{}
	for _, values := range variants(t) {
		for key, value := range leaves("", values) {
			tried[key] = tried[key] || !reflect.DeepEqual(value, defaults[key])
		}
	}
	for key := range defaults {
		if !tried[key] && !slices.ContainsFunc(slices.Collect(maps.Keys(tried)), func(k string) bool { return strings.HasPrefix(k, key+".") }) {
			t.Errorf("%s has no other value than its default in any variant", key)
		}
	}
}

// leaves are the values below a prefix that are no mappings with keys.
func leaves(prefix string, values map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range values {
		if below, ok := value.(map[string]any); ok && len(below) > 0 {
			maps.Copy(out, leaves(prefix+key+".", below))
			continue
		}
		out[prefix+key] = value
	}
	return out
}

func TestWrongValuesAreRefused(t *testing.T) {
	good := "image: {repository: r}\nlisten: {tlsSecret: s}\n"
	for text, want := range map[string]string{
		"listen: {tlsSecret: s}":                                                                               "/image/repository",
		"image: {repository: r}":                                                                               "tlsSecret",
		"image: {repository: r}\nkind: StatefulSet":                                                            "/kind",
		good + "cache: {high: much}":                                                                           "/cache/high",
		good + "cahce: {high: 90%}":                                                                            "cahce",
		good + "listen: {tlsSecret: s, port: 22}":                                                              "/listen/port",
		good + "terminationGracePeriodSeconds: 5":                                                              "/terminationGracePeriodSeconds",
		good + "scopes: [{namespace: Main, subjects: [{kind: User, name: u}]}]":                                "/scopes/0/namespace",
		good + "scopes: [{namespace: m, subjects: []}]":                                                        "/scopes/0/subjects",
		good + "scopes: [{namespace: m, subjects: [{kind: ServiceAccount, name: a}]}]":                         "namespace",
		good + "scopes: [{namespace: m, subjects: [{kind: User, name: a, namespace: b}]}]":                     "namespace",
		good + "cleanup: {projects: [{name: a, schedule: daily, repository: r, storage: s, ledger: m}]}":       "/schedule",
		good + "cleanup: {projects: [{name: a, schedule: '0 4 * * *', repository: r, storage: s, ledger: m}]}": "the ledger m is none of the scopes",
	} {
		// A key that is given twice is the later one.
		values := map[string]any{}
		for _, part := range strings.SplitAfter(text, "\n") {
			maps.Copy(values, parse(t, part))
		}
		if _, err := render(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %q", text, err, want)
		}
	}
}

func TestTheRightsInALedgerAreThoseOfTheManifest(t *testing.T) {
	manifest, err := kubernetes.Manifest{Namespace: "ci-main"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := rules(t, objects(t, manifest), "Role")
	text, err := render(variants(t)["everything"])
	if err != nil {
		t.Fatal(err)
	}
	if got := rules(t, objects(t, text), "Role"); want == nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the chart gives %v, the manifest %v", got, want)
	}
}

// rules are those of the objects of a kind, which all have the same.
func rules(t *testing.T, all []map[string]any, kind string) any {
	t.Helper()
	var out any
	for _, o := range all {
		if o["kind"] != kind {
			continue
		}
		if out != nil && !reflect.DeepEqual(out, o["rules"]) {
			t.Errorf("two %ss have different rules", kind)
		}
		out = o["rules"]
	}
	return out
}

// What a pod may do is what the README says, in every variant.
func TestNoPodIsPrivilegedAndTheDaemonHasNoToken(t *testing.T) {
	for name, values := range variants(t) {
		text, err := render(values)
		if err != nil {
			t.Fatal(err)
		}
		for _, forbidden := range []string{"privileged: true", "hostNetwork", "hostPID", "SYS_ADMIN", "runAsUser: 0"} {
			if strings.Contains(text, forbidden) {
				t.Errorf("%s: it has %s", name, forbidden)
			}
		}
		pods := 0
		for _, o := range objects(t, text) {
			if o["kind"] != "Deployment" && o["kind"] != "DaemonSet" {
				continue
			}
			pods++
			spec := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
			if spec["automountServiceAccountToken"] != false || spec["securityContext"].(map[string]any)["runAsNonRoot"] != true {
				t.Errorf("%s: the pod is %v", name, spec)
			}
		}
		if pods != 1 {
			t.Errorf("%s: %d kinds of pods", name, pods)
		}
	}
}
