package config_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages/config"
)

func TestADockerfileImageIsRead(t *testing.T) {
	tests := []struct {
		name, file, text string
		want             config.Dockerfile
		warnings         []string
	}{
		{
			name: "with its defaults", file: "cairn.yaml", text: "dockerfile: docker/app.Dockerfile\n",
			want: config.Dockerfile{Path: "docker/app.Dockerfile", Context: "docker", Line: 4},
		},
		{
			name: "with every key", file: "cairn.yaml",
			text: "dockerfile: /Dockerfile\ncontext: src\ntarget: app\nargs: {A: 1, B: two}\naddHost: [\"db:10.0.0.1\", \"six:::1\"]\nnetwork: none\nsecrets: token\nssh: [default, deploy]\n",
			want: config.Dockerfile{
				Path: "Dockerfile", Context: "src", Target: "app", Args: map[string]string{"A": "1", "B": "two"},
				AddHosts: []string{"db:10.0.0.1", "six:::1"}, Network: "none", Secrets: []string{"token"}, SSH: []string{"default", "deploy"}, Line: 4,
			},
		},
		{
			name: "of a werf.yaml, where its path begins in the context", file: "werf.yaml",
			text: "dockerfile: ./app.Dockerfile\ncontext: src\nnetwork: default\nssh: default=/run/agent\nsecrets:\n- id: token\n  env: TOKEN\n- env: OTHER\n- src: \"~/npmrc\"\n",
			want: config.Dockerfile{
				Path: "src/app.Dockerfile", Context: "src", Secrets: []string{"token", "OTHER", "npmrc"}, SSH: []string{"default"}, Line: 4,
			},
			warnings: []string{"what follows the =", `secret "token"`, `secret "OTHER"`, `secret "npmrc"`},
		},
		{
			name: "of a werf.yaml without a context", file: "werf.yaml", text: "dockerfile: docker/Dockerfile\n",
			want: config.Dockerfile{Path: "docker/Dockerfile", Context: ".", Line: 4},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := config.Load(t.Context(), config.Input{Path: tt.file, Data: []byte("project: p\nconfigVersion: 1\n---\n" + tt.text + "image: app\n")})
			if err != nil {
				t.Fatal(err)
			}
			if got := *p.Images[0].Dockerfile; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if len(p.Warnings) != len(tt.warnings) {
				t.Fatalf("warnings are %v, want %d", p.Warnings, len(tt.warnings))
			}
			for i, w := range tt.warnings {
				if !strings.Contains(p.Warnings[i].Error(), w) {
					t.Errorf("the warning %v does not say %q", p.Warnings[i], w)
				}
			}
		})
	}
}
