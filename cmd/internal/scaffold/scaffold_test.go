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
- {url: "https://git.example.com/a.git", to: /a}
- {url: "https://git.example.com/b.git", branch: next, add: /b, to: /b}
- {url: "https://git.example.com/c.git", tag: v1, to: /c}
- {url: "https://git.example.com/d.git", commit: 0123456789012345678901234567890123456789, to: /d}
mount:
- {from: tmp_dir, to: /var/cache/x}
- {from: build_dir, to: /var/lib/y}
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
		{"a directory with a number's name", project("123/Dockerfile", ""), "123", `image: "123"`},
		{"a directory named null", project("null/Dockerfile", ""), "null", `image: "null"`},
		{"a directory named as a truth", project("deep/true/Dockerfile", ""), "true", `image: "true"`},
		{"a directory that looks like a template", project("{{ env }}/Dockerfile", "", "a\"b\\/Dockerfile", ""), "a-b env", `{{ "{{" }} env }}/Dockerfile`},
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
	r, err = scaffold.Make(t.Context(), project("werf.yaml", "project: p\nconfigVersion: 1\n---\nimage: a\nfrom: debian:12\nshell: {install: x}\nmount:\n- {from: tmp_dir, to: /x}\n- {fromPath: /y, to: /y}\n"), "p")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Unconverted) != 1 || r.Unconverted[0].Line != 9 || !strings.Contains(r.Unconverted[0].Message, "fromPath") || r.Text != "" {
		t.Errorf("got %+v", r)
	}
}

func TestANameThatYAMLTakesForSomethingElseIsQuoted(t *testing.T) {
	for _, name := range []string{"123", "null", "true", "1e3", "0x1f", "no", "2001-01-01"} {
		for what, files := range map[string]fstest.MapFS{
			"nothing": project(), "a language": project("go.mod", ""), "a Dockerfile": project("Dockerfile", ""),
		} {
			r, err := scaffold.Make(t.Context(), files, name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := scaffold.Check(t.Context(), r.Text)
			if err != nil {
				t.Errorf("%s with %s: %v in\n%s", name, what, err, r.Text)
			} else if p.Name != name || p.Images[0].Name != name {
				t.Errorf("%s with %s gives the project %s and the image %s", name, what, p.Name, p.Images[0].Name)
			}
		}
	}
}
