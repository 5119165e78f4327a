package dockerfile_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/dockerfile"
	"github.com/cairnbuild/cairn/stages/source"
)

// absent is the content of a submodule whose files are not here.
const absent = "absent"

// tree is a project in memory; a name that ends in "@" is a symbolic link. Names on
// lines of .lfs are files of Git LFS.
type tree map[string]string

func (t tree) Read(_ context.Context, name string) ([]byte, error) {
	s, ok := t[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(s), nil
}

func (t tree) Files(sel stages.Selection) ([]source.File, error) {
	var out []source.File
	for _, name := range slices.Sorted(maps.Keys(t)) {
		rel, ok := strings.CutPrefix(name, sel.Mapping.Add+"/")
		if sel.Mapping.Add == "." {
			rel, ok = name, true
		}
		if !ok {
			continue
		}
		id := sha256.Sum256([]byte(t[name]))
		f := source.File{Path: rel, Mode: source.ModeRegular, Object: hex.EncodeToString(id[:20])}
		f.LFS = slices.Contains(strings.Split(t[".lfs"], "\n"), name)
		if t[name] == absent {
			f.Mode, f.Absent = source.ModeSubmodule, &source.Error{Op: "add", Subject: rel, Class: source.ErrSubmodule, Hint: "fetch it"}
		}
		if link, ok := strings.CutSuffix(rel, "@"); ok {
			f.Path, f.Mode = link, source.ModeSymlink
		}
		out = append(out, f)
	}
	return out, nil
}

func options() dockerfile.Options {
	return dockerfile.Options{
		Path: "Dockerfile", Context: ".", Platform: "linux/amd64", BuildPlatform: "linux/amd64",
		Secrets: []string{"token"}, Args: map[string]string{"GIVEN": "1", "UNSEEN": "1"},
	}
}

func load(t *testing.T, files tree, change func(*dockerfile.Options)) *dockerfile.Build {
	t.Helper()
	o := options()
	if change != nil {
		change(&o)
	}
	b, err := dockerfile.Load(t.Context(), files, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGivenArgumentsWithoutAnARGAreNoted(t *testing.T) {
	files := tree{"Dockerfile": "ARG BASE\nFROM scratch AS unused\nARG OTHER\nFROM scratch\nARG ONE TWO=2\n"}
	b := load(t, files, func(o *dockerfile.Options) {
		o.Args = map[string]string{
			"BASE": "1", "OTHER": "1", "TWO": "1", // declared, of use or not
			"TARGETARCH": "arm64", "https_proxy": "x", // known without
			"ZERO": "1", "ONCE": "1", "one": "1",
		}
	})
	if got, want := b.Source.Undeclared, []string{"ONCE", "ZERO", "one"}; !slices.Equal(got, want) {
		t.Errorf("undeclared are %q, want %q", got, want)
	}
}

// shop is a Dockerfile with a bit of everything.
const shop = `# syntax=docker/dockerfile:1
ARG TAG=12
ARG NOBODY=1
FROM debian:${TAG} AS build
ARG GIVEN
ARG LATE=1
RUN make $GIVEN
COPY src/*.c ./

FROM debian AS other
COPY other.txt /

FROM alpine AS final
ARG AFTER=x
ENV MODE=fast
COPY --from=build /out /out
COPY conf/app.conf /etc/
ARG LAST=1
`

func shopTree() tree {
	return tree{
		"Dockerfile": shop, "src/a.c": "a", "src/b.c": "b", "src/deep/c.c": "c", "src/README": "r",
		"other.txt": "o", "conf/app.conf": "x", "conf/none.conf": "n", ".dockerignore": "src/b.c\n",
	}
}

func TestWhatTheResultDoesNotFollowFromIsNoPartOfIt(t *testing.T) {
	want := load(t, shopTree(), nil).Recipe
	edits := map[string]func(tree, *dockerfile.Options){
		"a comment": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = "# hello\n" + strings.TrimPrefix(shop, "# syntax=docker/dockerfile:1\n")
		},
		"the case of keywords and blanks": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = strings.ReplaceAll(shop, "COPY conf", "copy \\\n  conf")
		},
		"a stage that nobody needs": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = strings.ReplaceAll(shop, "FROM debian AS other", "FROM debian AS other\nRUN more")
		},
		"a file of that stage":              func(f tree, _ *dockerfile.Options) { f["other.txt"] = "changed" },
		"a file that no pattern takes":      func(f tree, _ *dockerfile.Options) { f["src/README"], f["src/deep/c.c"], f["conf/new"] = "1", "2", "3" },
		"a file that is ignored":            func(f tree, _ *dockerfile.Options) { f["src/b.c"] = "changed" },
		"an argument that nothing declares": func(_ tree, o *dockerfile.Options) { o.Args = map[string]string{"GIVEN": "1", "UNSEEN": "2"} },
		"an argument that nothing sees": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = strings.NewReplacer("LAST=1", "LAST=2", "NOBODY=1", "NOBODY=2", "AFTER=x", "AFTER=y").Replace(shop)
		},
		"the name of the default target": func(_ tree, o *dockerfile.Options) { o.Target = "final" },
		"where it is said to build":      func(_ tree, o *dockerfile.Options) { o.BuildPlatform = "linux/arm64" },
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			files := shopTree()
			got := load(t, files, func(o *dockerfile.Options) { edit(files, o) }).Recipe
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the recipe is\n%+v\nwant\n%+v", got, want)
			}
		})
	}
}

func TestWhatTheResultFollowsFromIsPartOfIt(t *testing.T) {
	was := load(t, shopTree(), nil).Recipe
	edits := map[string]func(tree, *dockerfile.Options){
		"an instruction": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = strings.ReplaceAll(shop, "MODE=fast", "MODE=slow")
		},
		"a command of a stage that is used": func(f tree, _ *dockerfile.Options) {
			f["Dockerfile"] = strings.ReplaceAll(shop, "RUN make", "RUN make -B")
		},
		"a file that a pattern takes":     func(f tree, _ *dockerfile.Options) { f["src/a.c"] = "changed" },
		"a new file that a pattern takes": func(f tree, _ *dockerfile.Options) { f["src/z.c"] = "new" },
		"a file that is taken by name":    func(f tree, _ *dockerfile.Options) { f["conf/app.conf"] = "changed" },
		"whether a file is of Git LFS":    func(f tree, _ *dockerfile.Options) { f[".lfs"] = "src/a.c" },
		"what is ignored":                 func(f tree, _ *dockerfile.Options) { f[".dockerignore"] = "src/a.c\n" },
		"a given argument":                func(_ tree, o *dockerfile.Options) { o.Args = map[string]string{"GIVEN": "2"} },
		"an argument that a command sees": func(f tree, _ *dockerfile.Options) { f["Dockerfile"] = strings.ReplaceAll(shop, "LATE=1", "LATE=2") },
		"an argument before FROM":         func(f tree, _ *dockerfile.Options) { f["Dockerfile"] = strings.ReplaceAll(shop, "TAG=12", "TAG=13") },
		"the target":                      func(_ tree, o *dockerfile.Options) { o.Target = "build" },
		"the network":                     func(_ tree, o *dockerfile.Options) { o.Network = "none" },
		"a host":                          func(_ tree, o *dockerfile.Options) { o.AddHosts = []string{"db:10.0.0.1"} },
		"the platform":                    func(_ tree, o *dockerfile.Options) { o.Platform = "linux/arm64" },
		"the escape character":            func(f tree, _ *dockerfile.Options) { f["Dockerfile"] = "# escape=`\n" + shop },
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			files := shopTree()
			if got := load(t, files, func(o *dockerfile.Options) { edit(files, o) }).Recipe; reflect.DeepEqual(got, was) {
				t.Errorf("the recipe is still %+v", got)
			}
		})
	}
}

func TestInstructionsTakeFilesAsDockerDoes(t *testing.T) {
	files := tree{"a.txt": "1", "b.txt": "2", "d/x": "3", "d/e/y": "4", "d/e/z.md": "5", "link@": "d", "[odd]": "6"}
	tests := []struct{ name, text, want string }{
		{"everything", "COPY . /", "[odd] a.txt b.txt d/e/y d/e/z.md d/x link"},
		{"a directory", "COPY d /", "d/e/y d/e/z.md d/x"},
		{"a path that climbs", "COPY ../a.txt /", "a.txt"},
		{"a pattern does not cross directories", "COPY d/* /", "d/e/y d/e/z.md d/x"},
		{"a pattern of names", "COPY *.txt /", "a.txt b.txt"},
		{"a pattern that finds nothing", "COPY a.txt none* /", "a.txt"},
		{"a variable", "ENV F=a.txt\nCOPY $F /", "a.txt"},
		{"--parents from a pattern of directories", "COPY --parents d/**/y /", "d/e/y d/e/z.md d/x"},
		{"a link may lead anywhere", "COPY link /", "[odd] a.txt b.txt d/e/y d/e/z.md d/x link"},
		{"a mount", "RUN --mount=source=d/e,target=/mnt x", "d/e/y d/e/z.md"},
		{"a mount of everything", "RUN --mount=target=/mnt x", "[odd] a.txt b.txt d/e/y d/e/z.md d/x link"},
		{"a cache and a secret take nothing", "RUN --mount=type=cache,target=/c --mount=type=secret,id=token x", ""},
		{"from another stage", "COPY --from=0 a.txt /", ""},
		{"a document in the file", "COPY <<x /y\nhello\nx", ""},
		{"a trigger of the stage below", "ONBUILD COPY b.txt /\nFROM 0name\nRUN x", "b.txt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := maps.Clone(files)
			f["Dockerfile"] = "FROM scratch AS zero\nFROM scratch AS s0\n" + strings.ReplaceAll(tt.text, "0name", "s0")
			f[".dockerignore"] = "Dockerfile\n.dockerignore\n"
			if got := strings.Join(load(t, f, nil).Source.Files, " "); got != tt.want {
				t.Errorf("taken are %s, want %s", got, tt.want)
			}
		})
	}
}

func TestASubmoduleThatIsNotHereMattersOnlyToWhoTakesIt(t *testing.T) {
	tests := []struct {
		name, text, ignore string
		wanted             bool
	}{
		{"nobody takes it", "COPY a.txt /", "", false},
		{"it is left out", "COPY . /", "lib\n", false},
		{"a part of it is left out with it", "COPY . /", "lib/**\nlib\n", false},
		{"all is taken", "COPY . /", "", true},
		{"it is taken by name", "COPY lib /", "", true},
		{"a part of it is taken", "COPY lib/deep/x /", "", true},
		{"a pattern may find something in it", "COPY l*/x /", "", true},
		{"a pattern finds something else", "COPY o*/x /", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := tree{"Dockerfile": "FROM a\n" + tt.text + "\n", "a.txt": "a", "lib": absent, ".dockerignore": tt.ignore}
			_, err := dockerfile.Load(t.Context(), files, options())
			var e *source.Error
			if found := errors.As(err, &e) && errors.Is(err, source.ErrSubmodule); found != tt.wanted || !found && err != nil {
				t.Fatalf("the error is %v", err)
			}
			if tt.wanted && e.Hint != "fetch it; or leave it out of the context with a line lib in .dockerignore" {
				t.Errorf("the hint is %s", e.Hint)
			}
		})
	}
}

func TestAVariableOfTheBaseMakesAllFilesCount(t *testing.T) {
	f := tree{"Dockerfile": "FROM debian\nCOPY ${SOMEWHERE:-a.txt} /\n", "a.txt": "1", "b.txt": "2"}
	if got := strings.Join(load(t, f, nil).Source.Files, " "); got != "Dockerfile a.txt b.txt" {
		t.Errorf("taken are %s", got)
	}
}

func TestEachMistakeHasItsLine(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"another frontend", "# syntax=example.com/front:1\nFROM a\n", "Dockerfile:1: the frontend \"example.com/front:1\" is not supported"},
		{"an experimental frontend", "# syntax=docker/dockerfile:1-labs\nFROM a\n", "Dockerfile:1: the frontend"},
		{"a download without a checksum", "FROM a\nADD https://example.com/x /\n", "Dockerfile:2: ADD https://example.com/x: what is at an address may change"},
		{"a branch of another repository", "FROM a\nADD https://example.com/x.git#main /\n", "Dockerfile:2: ADD https://example.com/x.git#main: what a branch"},
		{"a file that is not there", "FROM a\nCOPY nothing /\n", "Dockerfile:2: nothing is not in the context"},
		{"a file that is ignored", "FROM a\nCOPY hidden /\n", "Dockerfile:2: hidden is in the context but .dockerignore leaves it out"},
		{"an unknown instruction", "FROM a\nRUNN x\n", "Dockerfile:2: "},
		{"nothing", "\n", "Dockerfile"},
		{"an instruction before FROM", "RUN x\nFROM a\n", "Dockerfile:1: RUN stands before the first FROM"},
		{"a base that is empty", "ARG B\nFROM $B\n", "Dockerfile:2: FROM: $B is empty"},
		{"a base with a login", "FROM user:sekret@example.com/a\n", "Dockerfile:1: the reference holds a login"},
		{"a base with a login and a path", "FROM https://user:sekret@example.com/a\n", "Dockerfile:1: the reference holds a login"},
		{"a frontend with a login", "# syntax=user:sekret@example.com/front\nFROM a\n", "Dockerfile:1: the name of the frontend holds a login"},
		{"a download with a login", "FROM a\nADD https://user:sekret@example.com/x /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a download with a login and a checksum", "FROM a\nADD --checksum=sha256:" + strings.Repeat("0", 64) + " https://user:sekret@example.com/x /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a download with a name alone", "FROM a\nADD https://sekret@example.com/x /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a repository with a login", "FROM a\nADD https://user:sekret@example.com/x.git#main /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a pinned repository with a login", "FROM a\nADD https://user:sekret@example.com/x.git#" + strings.Repeat("0", 40) + " /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a repository over SSH with a login", "FROM a\nADD ssh://git:sekret@example.com/x.git#main /\n", "Dockerfile:2: ADD: the address holds a login"},
		{"a copy of an address with a login", "FROM a\nCOPY https://user:sekret@example.com/x /\n", "Dockerfile:2: COPY: the address holds a login"},
		{"an address that is none", "FROM a\nADD https://user:sekret%@example.com/x /\n", "Dockerfile:2: ADD: the address cannot be read"},
		{"a download with a query", "FROM a\nADD https://example.com/x?token=sekret /\n", "Dockerfile:2: ADD https://example.com/x?…: what is at"},
		{"a repository with a query", "FROM a\nADD https://example.com/x.git?token=sekret /\n", "Dockerfile:2: ADD"},
		{"a repository over SSH", "FROM a\nADD git@example.com:x/y.git#main /\n", "Dockerfile:2: ADD git@example.com:x/y.git#main: what a branch"},
		{"a stage that needs itself", "FROM a AS x\nCOPY --from=x /a /b\n", "Dockerfile:1: the stage needs itself"},
		{"rights that no engine gives", "FROM a\nRUN --security=insecure x\n", "Dockerfile:2: RUN --security=insecure is not supported"},
		{"a secret that is not named", "FROM a\nRUN --mount=type=secret,id=other x\n", "Dockerfile:2: RUN uses the secret \"other\""},
		{"an agent that is not named", "FROM a\nRUN --mount=type=ssh x\n", "Dockerfile:2: RUN uses the ssh agent \"default\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := dockerfile.Load(t.Context(), tree{"Dockerfile": tt.text, "hidden": "x", ".dockerignore": "hidden\n"}, options())
			var e *dockerfile.Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Error(), tt.want) {
				t.Errorf("the error is %v, want %s…", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error()+e.Hint+e.Excerpt(), "sekret") {
				t.Errorf("the error repeats the login: %v", err)
			}
		})
	}
}

func TestAWordThatLooksLikeAFlagIsNone(t *testing.T) {
	text := func(copy string) string {
		return load(t, tree{"Dockerfile": "FROM scratch\n" + copy + "\n", "a": "1", "--parents": "2"}, nil).Recipe.Stages[0].Instructions[0]
	}
	if flag, word := text("COPY --parents a /"), text("COPY -- --parents a /"); flag == word || word != "COPY -- --parents a /" {
		t.Errorf("a flag gives %q, a word %q", flag, word)
	}
	if got := text("COPY -- a /"); got != "COPY a /" {
		t.Errorf("a separator that nothing needs gives %q", got)
	}
}

func TestOnlyWhatAStageBeginsFromHasTriggers(t *testing.T) {
	d := load(t, tree{"Dockerfile": "FROM one\nCOPY --from=two /a /a\nRUN --mount=from=three,target=/x y\n"}, nil).Recipe
	for n, want := range []bool{true, false, false} {
		if got := d.Begins(n); got != want {
			t.Errorf("base %d: begins a stage: %t", n, got)
		}
	}
}

func TestTriggersOfABaseMayNotTakeWhatNoPlanSees(t *testing.T) {
	for trigger, ok := range map[string]bool{
		"RUN x": true, "ENV A=1": true, "USER app": true, "COPY . /app": false, "ADD x /": false,
		"ARG A": false, "COPY --from=other /a /b": false, "RUN --mount=target=/m x": false,
	} {
		if err := dockerfile.CheckTriggers("base", []string{trigger}); (err == nil) != ok {
			t.Errorf("ONBUILD %s: %v", trigger, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(shop)
	f.Add("FROM scratch\nCOPY --from=0 <<a b\na\nONBUILD RUN x")
	f.Add("# escape=`\nARG A=$B\nFROM ${A:-x} AS a\nFROM a\nRUN --mount=from=a,target=/x y")
	f.Fuzz(func(t *testing.T, text string) {
		files := tree{"Dockerfile": text, "a": "1", "d/b": "2"}
		one, err := dockerfile.Load(t.Context(), files, options())
		two, again := dockerfile.Load(t.Context(), files, options())
		if (err == nil) != (again == nil) {
			t.Fatalf("%v and %v", err, again)
		}
		if err == nil && !reflect.DeepEqual(one.Recipe, two.Recipe) {
			t.Fatal("two recipes of one file")
		}
	})
}

func TestAnErrorShowsItsLine(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"an instruction that is not known", "FROM a\n  RUNN x\n", "2 |   RUNN x\n      ^^^^"},
		{"a file that is not there", "FROM a\nCOPY x nothing /\n", "2 | COPY x nothing /\n           ^^^^^^^"},
		{"a base", "ARG B\nFROM $B\n", "2 | FROM $B\n    ^^^^"},
		{"what may be a login", "FROM user:word@example.com/a\n", ""},
		{"the file as a whole", "\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := dockerfile.Load(t.Context(), tree{"Dockerfile": tt.text, "x": "1"}, options())
			var e *dockerfile.Error
			if !errors.As(err, &e) || e.Excerpt() != tt.want {
				t.Errorf("the error is %v, it shows\n%s\nwant\n%s", err, e.Excerpt(), tt.want)
			}
		})
	}
}
