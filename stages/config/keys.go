package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// projectDoc is the first document of the file.
type projectDoc struct {
	name      string
	platforms []stages.Platform
	env       []string
	envAt     *yaml.Node
	// cleanup is nil where the file does not say.
	cleanup *Cleanup
}

// imageDoc is a later document, with the places that later checks need.
type imageDoc struct {
	Image
	at, nameAt, fromImageAt, gitAt *yaml.Node
	importAt                       []*yaml.Node
	mounts                         []mountDoc
	docker                         Dockerfile
}

// importDoc is one element of import.
type importDoc struct {
	Import
	at            *yaml.Node
	before, after string
}

// shellDoc is the shell: key before the sections are put together.
type shellDoc struct {
	interpreter, network, version string
	commands                      map[stages.Kind][]string
	versions                      map[stages.Kind]string
	versionAt                     map[stages.Kind]*yaml.Node
}

// commandKinds are the sections of shell, in the order in which they run.
func commandKinds() []stages.Kind {
	return slices.DeleteFunc(stages.Kinds(), func(k stages.Kind) bool { return !k.RunsCommands() })
}

func projectNameValue() value[string] {
	return atMost(matching(text(), projectName, "project name", "lower-case letters, digits and -, beginning and ending with a letter or digit"), maxProjectName)
}

func imageNameValue() value[string] {
	return atMost(matching(text(), imageName, "image name", "lower-case letters and digits with - _ . / between them"), maxImageName)
}

// projectObject is the project document.
func projectObject() value[projectDoc] {
	type d = projectDoc
	version := checked(number(), "the number 1", func(n int) (int, error) {
		if n != 1 {
			return 0, fmt.Errorf("version %d is not known; this version of Cairn reads 1", n)
		}
		return n, nil
	})
	version.schema = map[string]any{"const": 1}
	return object[d]{
		title:   "the project document",
		doc:     "The first document of the file.",
		example: "project: shop\nconfigVersion: 1\nplatform: [linux/amd64, linux/arm64]\nenv: [CI_COMMIT_TAG]\n",
		refused: projectRefusals(),
	}.asValue(
		field(keyInfo{name: "project", required: true, doc: "Name of the project, which keys all state that its runners share. At most 50 characters."},
			projectNameValue(), func(t *d, v string, _ *yaml.Node) { t.name = v }),
		field(keyInfo{name: "configVersion", doc: "Version of the file's language.", otherwise: "1"}, version, func(*d, int, *yaml.Node) {}),
		field(keyInfo{name: "platform", doc: "Platforms of all images that name none themselves.", otherwise: string(stages.DefaultPlatform), cairnOnly: true},
			platforms(), func(t *d, v []stages.Platform, _ *yaml.Node) { t.platforms = v }),
		field(keyInfo{name: "env", doc: "Environment variables that templates may read. Must stand literally in the file.", otherwise: "none", cairnOnly: true},
			envNames(), func(t *d, v []string, n *yaml.Node) { t.env, t.envAt = v, n }),
		field(keyInfo{name: "cleanup", doc: "What a cleanup of the stages storage keeps.", otherwise: "the defaults of its keys"},
			cleanupObject(), func(t *d, v Cleanup, _ *yaml.Node) { t.cleanup = &v }),
	)
}

func envNames() value[[]string] {
	v := listOf(matching(text(), variableName, "name of a variable", "letters, digits and _ . -, beginning with a letter or _"))
	v.words = "a list of names"
	return v
}

// imageObject is the document of an image.
func imageObject() value[imageDoc] {
	type d = imageDoc
	return object[d]{
		title:   "an image",
		doc:     "Every later document of the file is one image.",
		example: "image: backend\nfrom: golang:1.26\ngit:\n- to: /src\n  stageDependencies:\n    install: [go.mod, go.sum]\n    setup: \"**/*.go\"\nshell:\n  install: cd /src && go mod download\n  setup: cd /src && go build -o /usr/bin/backend .\ndocker:\n  ENTRYPOINT: [/usr/bin/backend]\n",
		refused: imageRefusals(),
		finish:  finishImage,
	}.asValue(append([]fieldOf[d]{
		field(keyInfo{name: "image", doc: "Name of the image; ~ for the nameless one, which is then the only one. At most 128 characters."}, nameOrNull(), func(t *d, v string, n *yaml.Node) { t.Name, t.nameAt = v, n }),
		field(keyInfo{name: "from", doc: "Base image, or scratch. Exactly one of from, fromImage and dockerfile is given."},
			base(), func(t *d, v string, _ *yaml.Node) { t.From = v }),
		field(keyInfo{name: "fromImage", doc: "Image of this project to begin from."}, text(), func(t *d, v string, n *yaml.Node) { t.FromImage, t.fromImageAt = v, n }),
		field(keyInfo{name: "fromCacheVersion", doc: "Any text; another one builds the image anew from the base on."}, plain(), func(t *d, v string, _ *yaml.Node) { t.CacheVersion = v }),
		field(keyInfo{name: "platform", doc: "Platforms of the image.", otherwise: "those of the project"}, platforms(), func(t *d, v []stages.Platform, _ *yaml.Node) { t.Platforms = v }),
		field(keyInfo{name: "git", doc: "Files of the commit, or of other repositories, to place in the image. Of two mappings that give the same path the later one wins."}, listOf(gitObject()), func(t *d, v []gitDoc, n *yaml.Node) {
			t.gitAt = n
			for _, m := range v {
				t.Git = append(t.Git, m.Mapping)
			}
		}),
		field(keyInfo{name: "shell", doc: "Commands to run."}, shellObject(), setShell),
		field(keyInfo{name: "import", doc: "Files to take from other images of the project."}, listOf(importObject()), func(t *d, v []importDoc, _ *yaml.Node) {
			for _, i := range v {
				t.Imports, t.importAt = append(t.Imports, i.Import), append(t.importAt, i.at)
			}
		}),
		field(keyInfo{name: "mount", doc: "What commands see while they run and no layer holds: caches, secrets and the like."}, listOf(mountObject()), func(t *d, v []mountDoc, _ *yaml.Node) { t.mounts = v }),
		field(keyInfo{name: "docker", doc: "Config of the image."}, dockerObject(), func(t *d, v stages.Config, _ *yaml.Node) { t.Docker = v }),
	}, dockerfileFields()...)...)
}

func setShell(t *imageDoc, v shellDoc, _ *yaml.Node) {
	t.Interpreter, t.Network = v.interpreter, v.network
	t.Shell = make(map[stages.Kind]Section)
	for kind, commands := range v.commands {
		own, all := v.versions[kind], v.version
		if own != "" && all != "" {
			all += "\n"
		}
		t.Shell[kind] = Section{Commands: commands, CacheVersion: all + own}
	}
}

func finishImage(r *reader, n *yaml.Node, present map[string]*yaml.Node, d *imageDoc) {
	d.at, d.Line = n, r.line(n)
	finishDockerfile(r, present, d)
	refused := slices.ContainsFunc(imageRefusals(), func(f refusal) bool { return f.insteadOfBase() && present[f.key] != nil })
	switch {
	case present["image"] == nil && present["artifact"] == nil:
		r.failf(n, `begin the document with "image: NAME"`, `the key "image" is missing`)
	case present["from"] != nil && present["fromImage"] != nil:
		r.failf(present["fromImage"], "remove one of them", `"from" and "fromImage" exclude each other`)
	case present["from"] == nil && present["fromImage"] == nil && present["dockerfile"] == nil && !refused:
		r.failf(n, `"from: scratch" begins with nothing`, `want one of the keys "from", "fromImage" and "dockerfile"`)
	}
	if d.Interpreter == "" {
		d.Interpreter = defaultInterpreter(r.dialect)
	}
	if d.gitAt != nil { // then it was read as a list
		list, _ := r.resolve(d.gitAt)
		for _, mapping := range list.Content {
			d.GitLines = append(d.GitLines, r.line(mapping))
		}
	}
	d.setMounts(r)
	warnOfUnused(r, n, d)
}

// warnOfUnused tells of files that are declared for sections that do not exist.
func warnOfUnused(r *reader, n *yaml.Node, d *imageDoc) {
	for i, m := range d.Git {
		for _, kind := range commandKinds() {
			if _, runs := d.Shell[kind]; m.StageDependencies[kind] != nil && !runs {
				r.problems.warnf(r.place(n), "", "git[%d].stageDependencies.%s has no effect: shell has no section %s", i, kind, kind)
			}
		}
	}
}

func defaultInterpreter(d Dialect) string {
	if d == DialectWerf {
		return "bash"
	}
	return "sh"
}

// nameOrNull reads an image's name, or ~ as "".
func nameOrNull() value[string] {
	name := imageNameValue()
	return value[string]{
		words: "a string or ~", schema: map[string]any{"anyOf": []any{name.schema, map[string]any{"type": "null"}}},
		read: func(r *reader, n *yaml.Node) (string, bool) {
			to, ok := r.resolve(n)
			switch {
			case !ok:
				return "", false
			case to.Kind == yaml.ScalarNode && to.ShortTag() == "!!null":
				return "", true
			case to.Kind == yaml.SequenceNode:
				r.failf(n, "write one document for each name", "a list of names is not supported")
				return "", false
			default:
				return name.read(r, n)
			}
		},
	}
}

// gitDoc is one element of git.
type gitDoc struct {
	stages.Mapping
	url                 string
	branch, tag, commit string
}

// gitObject is one mapping of git.
func gitObject() value[gitDoc] {
	type d = gitDoc
	return object[d]{
		title:   "git",
		doc:     "A mapping places files of the commit in the image, or with url those of another repository. A command sees only the files that stageDependencies declares for it; all others come last.",
		example: "git:\n- add: /frontend\n  to: /app\n  owner: app\n  excludePaths: [\"**/*.md\"]\n  stageDependencies:\n    install: [package.json, package-lock.json]\n    setup: src\n- url: https://git.example.com/shop/assets.git\n  branch: main   # cairn.lock pins the commit\n  add: /icons\n  to: /app/icons\n",
		refused: gitRefusals(),
		finish:  finishGit,
	}.asValue(
		field(keyInfo{name: "add", doc: "File or directory of the tree, relative to the configuration file, or with url to the root of that repository; a leading / means the same.", otherwise: "/"}, inTree(), func(t *d, v string, _ *yaml.Node) { t.Add = v }),
		field(keyInfo{name: "to", required: true, doc: "Where it goes in the image. Where add is a file, so is to."}, absolute(), func(t *d, v string, _ *yaml.Node) { t.To = v }),
		field(keyInfo{name: "owner", doc: "Owner in the image, a name or number.", otherwise: "0"}, account(), func(t *d, v string, _ *yaml.Node) { t.Owner = v }),
		field(keyInfo{name: "group", doc: "Group in the image, a name or number.", otherwise: "0"}, account(), func(t *d, v string, _ *yaml.Node) { t.Group = v }),
		field(keyInfo{name: "includePaths", doc: "Only these, relative to add; ** crosses directories, a directory means all below it.", otherwise: "everything"}, globs(), func(t *d, v []string, _ *yaml.Node) { t.IncludePaths = v }),
		field(keyInfo{name: "excludePaths", doc: "Not these, relative to add.", otherwise: "nothing"}, globs(), func(t *d, v []string, _ *yaml.Node) { t.ExcludePaths = v }),
		field(keyInfo{name: "stageDependencies", doc: "The files that each command section needs.", otherwise: "the whole mapping is placed before install"}, dependencies(), func(t *d, v map[stages.Kind][]string, _ *yaml.Node) { t.StageDependencies = v }),
		field(keyInfo{name: "url", doc: "Another repository: https://, ssh://, USER@HOST:PATH, or file:// with --allow-file-urls. No login stands in it: git's credential helpers and ssh keys are used.", otherwise: "the project's own"}, repositoryURL(), func(t *d, v string, _ *yaml.Node) { t.url = v }),
		field(keyInfo{name: "branch", doc: "Branch of url, pinned by cairn.lock. At most one of branch, tag and commit is given.", otherwise: "the repository's main one"}, refName("heads"), func(t *d, v string, _ *yaml.Node) { t.branch = v }),
		field(keyInfo{name: "tag", doc: "Tag of url, pinned by cairn.lock."}, refName("tags"), func(t *d, v string, _ *yaml.Node) { t.tag = v }),
		field(keyInfo{name: "commit", doc: "Commit of url by its full id, which needs no entry in cairn.lock."}, commitID(), func(t *d, v string, _ *yaml.Node) { t.commit = v }),
		field(keyInfo{name: "name", doc: "Read and not used.", werfOnly: true}, plain(), func(*d, string, *yaml.Node) {}),
	)
}

func finishGit(r *reader, _ *yaml.Node, present map[string]*yaml.Node, into *gitDoc) {
	if into.Add == "" {
		into.Add = "."
	}
	var given []string
	for _, key := range []string{"branch", "tag", "commit"} {
		if present[key] == nil {
			continue
		}
		given = append(given, key)
		if present["url"] == nil {
			r.failf(present[key], "files of the project's own repository are those of the commit that is built", "%q has a meaning only with \"url\"", key)
		}
	}
	if len(given) > 1 {
		r.failf(present[given[1]], "remove one of them", "%q and %q exclude each other", given[0], given[1])
	}
	if into.url != "" {
		ref := cmp.Or(into.commit, prefixed("refs/heads/", into.branch), prefixed("refs/tags/", into.tag), stages.RemoteHead)
		into.Remote = stages.Remote{URL: into.url, Ref: ref}
	}
}

func dependencies() value[map[stages.Kind][]string] {
	type m = map[stages.Kind][]string
	var fields []fieldOf[m]
	for _, kind := range commandKinds() {
		fields = append(fields, field(keyInfo{name: string(kind), doc: "Files that must be in place before " + string(kind) + " runs, relative to add."},
			globs(), func(t *m, v []string, _ *yaml.Node) { put(t, kind, v) }))
	}
	return object[m]{title: "git.stageDependencies", doc: "Which files of the mapping a command section needs; a change to one of them runs the section again."}.asValue(fields...)
}

// put sets a key of a map that may not exist yet.
func put[V any](m *map[stages.Kind]V, k stages.Kind, v V) {
	if *m == nil {
		*m = make(map[stages.Kind]V)
	}
	(*m)[k] = v
}

// shellObject is the shell: key.
func shellObject() value[shellDoc] {
	type d = shellDoc
	fields := []fieldOf[d]{
		field(keyInfo{name: "interpreter", doc: "What runs the commands.", otherwise: "sh; bash in a werf.yaml", cairnOnly: true}, oneOf("sh", "bash"), func(t *d, v string, _ *yaml.Node) { t.interpreter = v }),
		field(keyInfo{name: "network", doc: "Network of the commands.", otherwise: "outgoing connections", cairnOnly: true}, oneOf("none", "host"), func(t *d, v string, _ *yaml.Node) { t.network = v }),
		field(keyInfo{name: "cacheVersion", doc: "Any text; another one runs all sections again."}, plain(), func(t *d, v string, _ *yaml.Node) { t.version = v }),
	}
	for _, kind := range commandKinds() {
		fields = append(fields,
			field(keyInfo{name: string(kind), doc: "Commands of the section " + string(kind) + "."}, script(), func(t *d, v []string, _ *yaml.Node) { put(&t.commands, kind, v) }),
			field(keyInfo{name: string(kind) + "CacheVersion", doc: "Any text; another one runs the section " + string(kind) + " and those after it again."}, plain(),
				func(t *d, v string, n *yaml.Node) { put(&t.versions, kind, v); put(&t.versionAt, kind, n) }))
	}
	return object[d]{
		title:   "shell",
		doc:     "Commands run as root in / with -e, one stage for each section: beforeInstall, install, beforeSetup, setup.",
		example: "shell:\n  interpreter: bash\n  beforeInstall:\n  - apt-get update\n  - apt-get install -y libpq-dev\n  install: cd /app && npm ci\n  installCacheVersion: 2\n",
		finish: func(r *reader, _ *yaml.Node, _ map[string]*yaml.Node, into *d) {
			for kind, n := range into.versionAt {
				if into.commands[kind] == nil {
					r.problems.warnf(r.place(n), "", "shell.%sCacheVersion has no effect: there is no section %s", kind, kind)
				}
			}
		},
	}.asValue(fields...)
}

// script reads the commands of a section.
func script() value[[]string] {
	line := checked(plain(), "a string", func(s string) (string, error) {
		if strings.TrimSpace(s) == "" {
			return "", errors.New("the command is empty")
		}
		// Whether a block ends with "|" or "|-" is no reason to run it again.
		return strings.TrimRight(s, "\n"), nil
	})
	return oneOrMany(line, "a string or a list of strings")
}

// importObject is one element of import.
func importObject() value[importDoc] {
	type d = importDoc
	when := func() value[string] { return oneOf("install", "setup") }
	return object[d]{
		title:   "import",
		doc:     "Takes files from the result of another image. Exactly one of before and after is given.",
		example: "import:\n- image: assets\n  add: /app/dist\n  to: /var/www\n  after: install\n  includePaths: [\"**/*.js\"]\n",
		refused: importRefusals(),
		finish:  finishImport,
	}.asValue(
		field(keyInfo{name: "image", doc: "Image of this project to take files from."}, text(), setSource),
		field(keyInfo{name: "from", doc: "Another word for image.", cairnOnly: true}, text(), setSource),
		field(keyInfo{name: "add", required: true, doc: "Path in the source image."}, absolute(), func(t *d, v string, _ *yaml.Node) { t.Add = v }),
		field(keyInfo{name: "to", doc: "Path in this image.", otherwise: "the same as add"}, absolute(), func(t *d, v string, _ *yaml.Node) { t.To = v }),
		field(keyInfo{name: "before", doc: "Take the files before this section runs."}, when(), func(t *d, v string, _ *yaml.Node) { t.before = v }),
		field(keyInfo{name: "after", doc: "Take the files after this section has run."}, when(), func(t *d, v string, _ *yaml.Node) { t.after = v }),
		field(keyInfo{name: "owner", doc: "Owner in this image, a name or number.", otherwise: "as in the source image"}, account(), func(t *d, v string, _ *yaml.Node) { t.Owner = v }),
		field(keyInfo{name: "group", doc: "Group in this image, a name or number.", otherwise: "as in the source image"}, account(), func(t *d, v string, _ *yaml.Node) { t.Group = v }),
		field(keyInfo{name: "includePaths", doc: "Only these, relative to add.", otherwise: "everything"}, globs(), func(t *d, v []string, _ *yaml.Node) { t.IncludePaths = v }),
		field(keyInfo{name: "excludePaths", doc: "Not these, relative to add.", otherwise: "nothing"}, globs(), func(t *d, v []string, _ *yaml.Node) { t.ExcludePaths = v }),
	)
}

func setSource(t *importDoc, v string, n *yaml.Node) { t.Image, t.at = v, n }

func finishImport(r *reader, n *yaml.Node, present map[string]*yaml.Node, d *importDoc) {
	d.Line = r.line(n)
	if d.To == "" {
		d.To = d.Add
	}
	switch image, from := present["image"], present["from"]; {
	case image != nil && from != nil && r.dialect == DialectCairn:
		r.failf(from, "remove one of them", `"image" and "from" mean the same`)
	case image == nil && present["artifact"] == nil && (from == nil || r.dialect == DialectWerf):
		r.failf(n, "", `the key "image" is missing`)
	}
	before, after := present["before"] != nil, present["after"] != nil
	switch {
	case before && after:
		r.failf(present["after"], "remove one of them", `"before" and "after" exclude each other`)
	case !before && !after:
		r.failf(n, `for instance "after: install"`, `want one of the keys "before" and "after", with install or setup`)
	}
	d.Kind = map[string]stages.Kind{
		"before install": stages.KindImportBeforeInstall, "after install": stages.KindImportAfterInstall,
		"before setup": stages.KindImportBeforeSetup, "after setup": stages.KindImportAfterSetup,
	}[strings.TrimSpace(prefixed("before ", d.before)+prefixed("after ", d.after))]
}

func prefixed(word, s string) string {
	if s == "" {
		return ""
	}
	return word + s
}
