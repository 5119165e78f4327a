package dockerfile_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages/dockerfile"
)

// staged loads a Dockerfile that is built group by group.
func staged(t *testing.T, files tree, change func(*dockerfile.Options)) *dockerfile.Staged {
	t.Helper()
	b := load(t, files, change)
	if b.Staged == nil {
		t.Fatalf("the file is one stage: %s", b.Source.Whole)
	}
	return b.Staged
}

// shape writes the chains and their groups in a line each.
func shape(s *dockerfile.Staged) string {
	var b strings.Builder
	for _, c := range s.Chains {
		fmt.Fprintf(&b, "%s from %d base %d", c.Name, c.From, c.Base)
		for _, g := range c.Groups {
			p := g.Source.Part
			fmt.Fprintf(&b, "; %d-%d end %d below %d uses %v", p.First, p.Last, p.End, p.Below, p.Uses)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestAGroupEndsWithARunOrItsBuildStage(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"each RUN is the end of one", "FROM a\nENV X=1\nRUN x\nCOPY f /\nRUN y\n", "0 from -1 base 0; 2-3 end 3 below 0 uses []; 4-5 end 5 below 3 uses []\n"},
		{"what is left is one", "FROM a\nRUN x\nWORKDIR /w\nCOPY f /\nLABEL l=1\n", "0 from -1 base 0; 2-2 end 2 below 0 uses []; 3-4 end 4 below 2 uses []\n"},
		{"config is none", "FROM a\nRUN x\nENV X=1\nCMD y\n", "0 from -1 base 0; 2-2 end 2 below 0 uses []\n"},
		{"nothing but config", "FROM a\nENV X=1\n", "0 from -1 base 0\n"},
		{"a stage goes on from another", "FROM a AS one\nRUN x\nENV X=1\nFROM one AS two\nRUN y\n", "one from -1 base 0; 2-2 end 2 below 0 uses []\ntwo from 0 base -1; 5-5 end 5 below 2 uses []\n"},
		{"a stage that adds nothing", "FROM a AS one\nRUN x\nFROM one AS two\nFROM two\nRUN y\n", "one from -1 base 0; 2-2 end 2 below 0 uses []\ntwo from 0 base -1\n2 from 1 base -1; 5-5 end 5 below 2 uses []\n"},
		{"files of another stage", "FROM a AS one\nRUN x\nFROM b\nCOPY --from=one /x /\nRUN --mount=from=one,target=/m y\n", "one from -1 base 0; 2-2 end 2 below 0 uses []\n1 from -1 base 1; 4-5 end 5 below 0 uses [2 2]\n"},
		{"files of a stage without groups", "FROM a AS one\nFROM b\nCOPY --from=one /x /\n", "one from -1 base 0\n1 from -1 base 1; 3-3 end 3 below 0 uses []\n"},
		{"a document belongs to its instruction", "FROM a\nRUN <<E\nx\nE\nRUN y\n", "0 from -1 base 0; 2-4 end 4 below 0 uses []; 5-5 end 5 below 4 uses []\n"},
		{"triggers are at the beginning", "FROM a AS one\nONBUILD RUN x\nFROM one\n", "one from -1 base 0\n1 from 0 base -1; 3-3 end 3 below 0 uses []\n"},
		{"triggers belong to what follows", "FROM a AS one\nONBUILD RUN x\nFROM one\nRUN y\nRUN z\n", "one from -1 base 0\n1 from 0 base -1; 4-4 end 4 below 0 uses []; 5-5 end 5 below 4 uses []\n"},
		{"the root directory is always there", "FROM a\nWORKDIR /\n", "0 from -1 base 0\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := shape(staged(t, tree{"Dockerfile": tt.text, "f": "1"}, nil)); got != tt.want {
				t.Errorf("the groups are\n%swant\n%s", got, tt.want)
			}
		})
	}
}

// steps is a file of which single words are changed.
const steps = `ARG GLOBAL=g
FROM debian AS tool
RUN make-tool

FROM debian AS deps
ARG EARLY=1
COPY lock /
RUN fetch
ARG LATE=1
ARG GLOBAL
ARG TARGETARCH
COPY src /src
RUN build

FROM deps
ENV PORT=80
COPY --from=tool /tool /
LABEL l=1
CMD run
`

// changedParts says which of the groups differ, by their lines, and "config".
func changedParts(a, b *dockerfile.Staged) []string {
	var out []string
	for i, c := range b.Chains {
		for j, g := range c.Groups {
			if !reflect.DeepEqual(a.Chains[i].Groups[j].Recipe, g.Recipe) || a.Chains[i].Platform != c.Platform {
				out = append(out, fmt.Sprintf("%s/%d", c.Name, j))
			}
		}
	}
	if !reflect.DeepEqual(a.Config.Recipe, b.Config.Recipe) {
		out = append(out, "config")
	}
	return out
}

func TestAChangeIsOfTheGroupsThatFollowFromIt(t *testing.T) {
	files := func() tree { return tree{"Dockerfile": steps, "lock": "1", "src/a": "1", "other": "1"} }
	was := staged(t, files(), nil)
	replace := func(pairs ...string) func(tree, *dockerfile.Options) {
		return func(f tree, _ *dockerfile.Options) { f["Dockerfile"] = strings.NewReplacer(pairs...).Replace(steps) }
	}
	tests := []struct {
		name string
		edit func(tree, *dockerfile.Options)
		want string
	}{
		{"nothing", replace(), ""},
		{"a comment and blanks", replace("COPY lock", "# x\ncopy \\\n lock"), ""},
		{"a command", replace("RUN fetch", "RUN fetch -v"), "deps/0"},
		{"a command of another stage", replace("make-tool", "make-tools"), "tool/0"},
		{"an argument from where it is declared", replace("LATE=1", "LATE=2"), "deps/1"},
		{"an argument that all commands see", replace("EARLY=1", "EARLY=2"), "deps/0"},
		{"a global argument from where it is used", replace("GLOBAL=g", "GLOBAL=h"), "deps/1"},
		{"a given argument", func(_ tree, o *dockerfile.Options) { o.Args = map[string]string{"LATE": "3"} }, "deps/1"},
		{"a given argument that nobody declares", func(_ tree, o *dockerfile.Options) { o.Args = map[string]string{"NONE": "3"} }, ""},
		{"the platform where it is asked for", func(_ tree, o *dockerfile.Options) { o.Platform = "linux/amd64/v2" }, "tool/0 deps/0 deps/1 2/0"},
		{"a file where it is copied", func(f tree, _ *dockerfile.Options) { f["src/a"] = "2" }, "deps/1"},
		{"a file that is copied early", func(f tree, _ *dockerfile.Options) { f["lock"] = "2" }, "deps/0"},
		{"a file that nobody copies", func(f tree, _ *dockerfile.Options) { f["other"] = "2" }, ""},
		{"a label", replace("l=1", "l=2"), "config"},
		{"a variable that no command sees", replace("PORT=80", "PORT=81"), "config"},
		{"the program", replace("CMD run", "CMD walk"), "config"},
		{"the network of commands", func(_ tree, o *dockerfile.Options) { o.Network = "none" }, "tool/0 deps/0 deps/1"},
		{"the shell", replace("RUN build", "SHELL [\"sh\"]\nRUN build"), "deps/1 config"},
		{"a label between commands", replace("ARG LATE", "LABEL x=1\nARG LATE"), "config"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := files()
			got := staged(t, f, func(o *dockerfile.Options) { tt.edit(f, o) })
			if parts := strings.Join(changedParts(was, got), " "); parts != tt.want {
				t.Errorf("changed are %q, want %q", parts, tt.want)
			}
		})
	}
}

// What a group without commands sets is of no use to itself, but to who goes on from it.
func TestWhatAStageSetsReachesTheNextOne(t *testing.T) {
	text := "FROM a AS one\nRUN x\nARG V=1\nENV W=1\nCOPY f /\nFROM one\nRUN y\n"
	was := staged(t, tree{"Dockerfile": text, "f": "1"}, nil)
	for _, change := range []string{"V=1", "W=1"} {
		got := staged(t, tree{"Dockerfile": strings.Replace(text, change, change+"2", 1), "f": "1"}, nil)
		parts := slices.DeleteFunc(changedParts(was, got), func(s string) bool { return s == "config" })
		if len(parts) != 1 || parts[0] != "1/0" {
			t.Errorf("with another %s changed are %v", change, parts)
		}
	}
}

func TestOrderMatters(t *testing.T) {
	texts := []string{
		"FROM a AS one\nARG X=1\nENV X=5\nFROM one\nRUN x\n",
		"FROM a AS one\nENV X=5\nARG X=1\nFROM one\nRUN x\n",
	}
	a, b := staged(t, tree{"Dockerfile": texts[0]}, nil), staged(t, tree{"Dockerfile": texts[1]}, nil)
	if reflect.DeepEqual(a.Chains[1].Groups[0].Recipe, b.Chains[1].Groups[0].Recipe) {
		t.Error("a command that sees another value has the same recipe")
	}
}

func TestCachesBesideFilesFromBelowAreTheGroupsOwn(t *testing.T) {
	tests := []struct {
		name, text string
		some, own  bool
	}{
		{"files of the group alone", "FROM scratch\nWORKDIR /w\nCOPY f .\nRUN --mount=type=cache,target=/w/obj x\n", true, false},
		{"files of a group below", "FROM scratch\nWORKDIR /w\nCOPY f .\nRUN x\nRUN --mount=type=cache,target=/w/obj x\n", true, true},
		{"files of a stage below", "FROM scratch AS o\nCOPY f /w/\nFROM o\nWORKDIR /w\nRUN --mount=type=cache,target=obj x\n", true, true},
		{"a cache of packages", "FROM scratch\nWORKDIR /w\nCOPY f .\nRUN x\nRUN --mount=type=cache,target=/root/.npm x\n", false, false},
		{"files of another stage", "FROM scratch AS o\nRUN x\nFROM scratch\nWORKDIR /w\nCOPY --from=o /x /w/\nRUN --mount=type=cache,target=/w/obj x\n", true, true},
		{"a directory that a base names", "FROM a\nCOPY f .\nRUN x\nRUN --mount=type=cache,target=obj x\n", true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := staged(t, tree{"Dockerfile": tt.text, "f": "1"}, nil)
			groups := s.Chains[len(s.Chains)-1].Groups
			if p := groups[len(groups)-1].Source.Part; p.Caches != tt.some || p.OwnCaches != tt.own {
				t.Errorf("caches: %t, own: %t", p.Caches, p.OwnCaches)
			}
		})
	}
}

func TestAFileThatIsOneStageSaysWhy(t *testing.T) {
	tests := []struct {
		name, text, want string
		whole            bool
	}{
		{"it is asked for", "FROM a\nRUN x\n", "staged: false", true},
		{"the times of files", "ARG SOURCE_DATE_EPOCH=1\nFROM a\n", "line 1 asks for SOURCE_DATE_EPOCH, which sets the times of files", false},
		{"the name of the target", "FROM a\nARG TARGETSTAGE=x\n", "line 2 gives TARGETSTAGE a default", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := load(t, tree{"Dockerfile": tt.text}, func(o *dockerfile.Options) { o.Whole = tt.whole })
			if b.Staged != nil || b.Source.Whole != tt.want {
				t.Errorf("it says %q", b.Source.Whole)
			}
		})
	}
}

func TestTheTextOfTheConfigHasNoInstructionThatMakesFiles(t *testing.T) {
	text := "FROM a AS x\nRUN <<E\nq\nE\nONBUILD COPY --from=y /a /\nONBUILD ENV E=1\nFROM x\nCOPY f /\nONBUILD RUN z\nCMD c\n"
	s := staged(t, tree{"Dockerfile": strings.Replace(text, "FROM a AS x", "FROM b AS y\nFROM a AS x", 1), "f": "1"}, nil)
	want := "FROM b AS y\nFROM a AS x\n\n\n\n\nONBUILD ENV E=1\nFROM x\n\nONBUILD RUN z\nCMD c\n"
	if got := string(s.Config.Source.Text); got != want {
		t.Errorf("the text is\n%s\nwant\n%s", got, want)
	}
	if got := strings.Join(s.Config.Recipe.Instructions, "; "); got != "ONBUILD ENV E=1; ENV E=1; ONBUILD RUN z; CMD c" {
		t.Errorf("the instructions are %s", got)
	}
}
