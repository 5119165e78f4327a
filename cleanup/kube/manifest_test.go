package kube

import (
	"bytes"
	"errors"
	"io"
	"testing"

	batch "k8s.io/api/batch/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func sampleManifest() Manifest {
	return Manifest{
		Namespace: "ci", Project: "shop", Schedule: "30 3 * * *", Image: "registry.test/cairn:v1", Repository: `https://git.test/it's "quoted"`, Dir: ".",
		Storage: "registry.test/shop", Ledger: "kubernetes://ci",
	}
}

func TestTheManifestOfACleanupIsWhatKubernetesReads(t *testing.T) {
	text, err := sampleManifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	var role rbac.ClusterRole
	var job batch.CronJob
	kinds := 0
	for docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096); ; {
		var doc map[string]any
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds++
	}
	if kinds != 5 {
		t.Errorf("%d objects", kinds)
	}
	for _, part := range bytes.Split([]byte(text), []byte("\n---\n")) {
		switch {
		case bytes.Contains(part, []byte("kind: CronJob")):
			err = yaml.UnmarshalStrict(part, &job)
		case bytes.Contains(part, []byte("kind: ClusterRole\n")) && bytes.Contains(part, []byte("rules:")):
			err = yaml.UnmarshalStrict(part, &role)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(role.Rules) != 1 || len(role.Rules[0].Verbs) != 1 || role.Rules[0].Verbs[0] != "list" {
		t.Errorf("the account may do more than list: %v", role.Rules)
	}
	pod := job.Spec.JobTemplate.Spec.Template.Spec
	if job.Spec.Schedule != "30 3 * * *" || job.Spec.ConcurrencyPolicy != batch.ForbidConcurrent || pod.ServiceAccountName != Account {
		t.Errorf("the job is %+v", job.Spec)
	}
	env := map[string]string{}
	for _, v := range pod.Containers[0].Env {
		env[v.Name] = v.Value
	}
	if env["REPOSITORY"] != sampleManifest().Repository || env["CAIRN_STAGES_STORAGE"] != "registry.test/shop" || env["CAIRN_SYNCHRONIZATION"] != "kubernetes://ci" {
		t.Errorf("the environment is %v", env)
	}
}

func TestAManifestThatCannotWorkIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"no repository":    func(m *Manifest) { m.Repository = "" },
		"no image":         func(m *Manifest) { m.Image = "" },
		"a daily schedule": func(m *Manifest) { m.Schedule = "@daily" },
		"another document": func(m *Manifest) { m.Namespace = "ci\n---\nkind: Pod" },
		"an odd project":   func(m *Manifest) { m.Project = "Shop" },
	} {
		m := sampleManifest()
		change(&m)
		if _, err := m.Encode(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
