package scaffold_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cairnbuild/cairn/cmd/internal/scaffold"
)

func project(files ...string) fstest.MapFS {
	fs := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fs[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fs
}

const werf = `project: shop
configVersion: 1
---
image: base
from: debian:12
shell:
  beforeInstall: [apt-get update, "echo '{{ "{{ x }}" }}'"]
  installCacheVersion: "2"
  install: make
git:
- add: /src
  to: /app
  owner: app
  stageDependencies: {install: Makefile}
docker:
  ENV: {A: "1"}
  EXPOSE: [80]
  HEALTHCHECK: CMD true
---
image: app
fromImage: base
import:
- {image: made, add: /x, to: /y, before: setup}
---
image: made
dockerfile: Dockerfile
context: made
args: {A: b}
`

func TestEveryFirstConfigurationLoads(t *testing.T) {
	tests := []struct {
		name   string
		files  fstest.MapFS
		images string
		says   string
	}{
		{"nothing", project(), "my-shop", "debian:12"},
		{"one Dockerfile", project("Dockerfile", "FROM scratch"), "my-shop", "dockerfile: Dockerfile"},
		{
			"several Dockerfiles", project("Dockerfile", "", "api/Dockerfile", "", "docker/Dockerfile", "", "web/prod.Dockerfile", "", "Dockerfile.worker", "", "node_modules/x/Dockerfile", "", "Dockerfile.dockerignore", ""),
			"my-shop worker api my-shop-2 prod", "context: /",
		},
		{"Go", project("go.mod", ""), "my-shop", "go mod download"},
		{"JavaScript", project("package.json", ""), "my-shop", "npm ci"},
		{"Python with requirements", project("requirements.txt", ""), "my-shop", "pip install -r"},
		{"Python with a project", project("pyproject.toml", ""), "my-shop", "pip install ."},
		{"PHP", project("composer.json", ""), "my-shop", "composer install"},
		{"Ruby", project("Gemfile", ""), "my-shop", "bundle install"},
		{"Maven", project("pom.xml", ""), "my-shop", "mvn"},
		{"Gradle", project("build.gradle.kts", ""), "my-shop", "gradle"},
		{"werf", project("werf.yaml", werf, "Dockerfile", ""), "base made app", "interpreter: bash"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := scaffold.Make(t.Context(), tt.files, "My Shop")
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Unconverted) > 0 {
				t.Fatalf("not converted: %v", r.Unconverted)
			}
			p, err := scaffold.Check(t.Context(), r.Text)
			if err != nil {
				t.Fatalf("%v in\n%s", err, r.Text)
			}
			var names []string
			for _, i := range p.Images {
				names = append(names, i.Name)
			}
			if got := strings.Join(names, " "); got != tt.images {
				t.Errorf("the images are %s, want %s", got, tt.images)
			}
			if !strings.Contains(r.Text, tt.says) {
				t.Errorf("the text does not say %q:\n%s", tt.says, r.Text)
			}
		})
	}
}

func TestWhatOfAWerfFileDoesNotConvertIsToldWithItsLine(t *testing.T) {
	r, err := scaffold.Make(t.Context(), project("werf.yaml", "project: p\nconfigVersion: 1\n---\nimage: a\nfrom: debian:12\nansible: {}\n"), "p")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Unconverted) != 1 || r.Unconverted[0].Line != 6 || !strings.Contains(r.Unconverted[0].Message, "ansible") || r.Text != "" {
		t.Errorf("got %+v", r)
	}
	r, err = scaffold.Make(t.Context(), project("werf.yaml", "project: p\nconfigVersion: 1\n---\nimage: a\nfrom: debian:12\nshell: {install: x}\nmount:\n- {from: tmp_dir, to: /var/cache/x}\n"), "p")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Unconverted) != 1 || r.Unconverted[0].Line != 4 || r.Text != "" {
		t.Errorf("got %+v", r)
	}
}
