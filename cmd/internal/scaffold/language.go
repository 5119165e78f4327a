package scaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// language is a starter for projects that have one of some files.
type language struct {
	name string
	// marks are files that show it, the surest first.
	marks []string
	// base is a reference, locks are the files that dependencies are installed from.
	base, locks string
	// install and setup are commands, cmd is what the image runs.
	install, setup, cmd string
}

func languages() []language {
	return []language{
		{"Go", []string{"go.mod"}, "golang:1.26", "[go.mod, go.sum]", "go mod download", "go build -o /usr/local/bin/app .", "[app]"},
		{"JavaScript", []string{"package.json"}, "node:24", "[package.json, package-lock.json]", "npm ci", "npm run build --if-present", "[npm, start]"},
		{"Python", []string{"requirements.txt"}, "python:3.14", "[requirements.txt]", "pip install -r requirements.txt", "python -m compileall -q .", "[python, -m, app]"},
		{"Python", []string{"pyproject.toml"}, "python:3.14", "[pyproject.toml]", "pip install .", "python -m compileall -q .", "[python, -m, app]"},
		{"PHP", []string{"composer.json"}, "composer:2", "[composer.json, composer.lock]", "composer install --no-dev --no-scripts --no-autoloader", "composer dump-autoload --optimize", "[php, -S, \"0.0.0.0:8080\"]"},
		{"Ruby", []string{"Gemfile"}, "ruby:3.4", "[Gemfile, Gemfile.lock]", "bundle install", "ruby -e 'puts RUBY_VERSION'", "[bundle, exec, rackup]"},
		{"Java (Maven)", []string{"pom.xml"}, "maven:3-eclipse-temurin-25", "[pom.xml]", "mvn --batch-mode dependency:go-offline", "mvn --batch-mode package", "[java, -jar, target/app.jar]"},
		{"Java (Gradle)", []string{"build.gradle", "build.gradle.kts"}, "gradle:9-jdk25", "[\"*.gradle\", \"*.gradle.kts\", gradle.properties]", "gradle --no-daemon dependencies", "gradle --no-daemon build", "[java, -jar, build/libs/app.jar]"},
	}
}

// fromLanguage writes a commented starter.
func fromLanguage(dir fs.FS, project string) (Result, error) {
	for _, l := range languages() {
		for _, mark := range l.marks {
			_, err := fs.Stat(dir, mark)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return Result{}, err
			}
			return Result{Text: l.text(project), Found: []Found{{Kind: KindLanguage, Path: filepath.ToSlash(mark), Language: l.name, Image: project}}}, nil
		}
	}
	empty := language{base: "debian:12", locks: "[]", install: "true", setup: "true", cmd: "[sh]"}
	return Result{Text: empty.bare(project)}, nil
}

func (l language) text(project string) string {
	return fmt.Sprintf(`# A first configuration for a project in %s: look through it and change what does not
# fit. docs/reference/configuration.md has all keys.
project: %s
---
image: %s
from: %s
git:
- to: /app
  # A command sees only the files that are declared for its section. A change to one
  # of them runs the section again, and those after it.
  stageDependencies:
    install: %s
    setup: ["**/*"]
shell:
  # Dependencies, from the lock files alone: they stay as long as those do.
  install: cd /app && %s
  # The program itself.
  setup: cd /app && %s
docker:
  WORKDIR: /app
  CMD: %s
`, l.name, quoted(project), quoted(project), l.base, l.locks, l.install, l.setup, l.cmd)
}

// bare is for a repository of which nothing is known.
func (l language) bare(project string) string {
	return fmt.Sprintf(`# A first configuration: nothing was found that says how the project is built.
# docs/reference/configuration.md has all keys.
project: %s
---
image: %s
from: %s
git:
- to: /app
docker:
  WORKDIR: /app
  CMD: %s
`, quoted(project), quoted(project), l.base, l.cmd)
}
