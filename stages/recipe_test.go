package stages_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnbuild/cairn/stages"
)

func digestOf(s string) stages.Digest { return stages.DigestOf([]byte(s)) }

func ptr[T any](v T) *T { return &v }

// The vectors are the promise that a stage digest is the same for ever: a change
// here rebuilds every stage of every user and needs a new RecipeFormat.
func TestEncodingKeepsItsGoldenVectors(t *testing.T) {
	for _, tc := range []struct {
		name, encoding, digest string
		recipe                 stages.Recipe
	}{
		{
			name:     "a base",
			recipe:   stages.Recipe{Format: 1, Kind: stages.KindFrom, Platform: "linux/amd64", Base: "sha256:aa"},
			encoding: `{"base":"sha256:aa","format":1,"kind":"from","platform":"linux/amd64"}`,
			digest:   "sha256:4c227c238cdd21723b34225747fa8216d52c7de87c860e0c45945ec93993fa26",
		},
		{
			name: "a command stage with files and text that HTML would escape",
			recipe: stages.Recipe{
				Format: 1, Kind: stages.KindInstall, Platform: "linux/amd64", Parent: ptr(digestOf("parent")), Salt: "s",
				Commands: &stages.Commands{Interpreter: "sh", Script: []string{`echo "<&>" é`}, CacheVersion: "2", Network: "none"},
				Files:    []stages.FileSet{{Files: digestOf("files"), To: "/app", Owner: "app", Group: "0"}},
			},
			encoding: `{"commands":{"cacheVersion":"2","interpreter":"sh","network":"none","script":["echo \"<&>\" é"]},"files":[{"files":"sha256:3d7db37d08f9140fd09f12b9621cd0954b6d56a9d2f357fb2c7f5d62636d2fd1","group":"0","owner":"app","to":"/app"}],"format":1,"kind":"install","parent":"sha256:e47125968b3b71049fbc4802d1e40a71ea1359decfabacf70b34588037d4ff0c","platform":"linux/amd64","salt":"s"}`,
			digest:   "sha256:28cc1676eb5a4abbc7ffe955969323fdd226aeb6bc356df35c30dab5820cf099",
		},
		{
			name: "a command stage with a mount of each type",
			recipe: stages.Recipe{
				Format: 1, Kind: stages.KindInstall, Platform: "linux/amd64",
				Commands: &stages.Commands{Interpreter: "sh", Script: []string{"npm ci"}, Mounts: []stages.Mount{
					{Type: stages.MountCache, ID: "npm", Sharing: stages.SharingLocked, To: "/root/.npm"},
					{Type: stages.MountTmpfs, Size: 1 << 20, To: "/tmp"},
					{Type: stages.MountSecret, ID: "token", Mode: "0440", To: "/run/secrets/token", Env: "TOKEN"},
					{Type: stages.MountSSH, ID: "default"},
				}},
			},
			encoding: `{"commands":{"interpreter":"sh","mounts":[{"id":"npm","sharing":"locked","to":"/root/.npm","type":"cache"},{"size":1048576,"to":"/tmp","type":"tmpfs"},{"env":"TOKEN","id":"token","mode":"0440","to":"/run/secrets/token","type":"secret"},{"id":"default","type":"ssh"}],"script":["npm ci"]},"format":1,"kind":"install","platform":"linux/amd64"}`,
			digest:   "sha256:fba4290e218d52367d3596ab8ed584463489c22cc797b265aa987f75718a413e",
		},
		{
			name: "imports and a config whose maps are sorted",
			recipe: stages.Recipe{
				Format: 1, Kind: stages.KindSource, Platform: "linux/arm64",
				Imports: []stages.Import{{From: digestOf("other"), Add: "/bin/x", To: "/usr/bin/x", IncludePaths: []string{"a", "b"}}},
				Config: &stages.Config{
					Env: map[string]string{"B": "2", "A": "1"}, Cmd: []string{"x"},
					Healthcheck: &stages.Healthcheck{Test: []string{"CMD", "true"}, Interval: 1e9},
				},
			},
			encoding: `{"config":{"cmd":["x"],"env":{"A":"1","B":"2"},"healthcheck":{"interval":1000000000,"test":["CMD","true"]}},"format":1,"imports":[{"add":"/bin/x","from":"sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa","includePaths":["a","b"],"to":"/usr/bin/x"}],"kind":"source","platform":"linux/arm64"}`,
			digest:   "sha256:116c6f5cda00018d2f3704135b517d003ae79d5d0c64b14c39e43c2b7b5ea9b0",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := tc.recipe.Encode()
			if err != nil {
				t.Fatal(err)
			}
			d, err := tc.recipe.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != tc.encoding || d.String() != tc.digest {
				t.Errorf("encoding is now\n%s\n%s", b, d)
			}
			again, err := stages.DecodeRecipe(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*again, tc.recipe) {
				t.Errorf("decoded %+v, want %+v", *again, tc.recipe)
			}
		})
	}
}

func TestEncodeRefusesTextThatIsNotUTF8(t *testing.T) {
	r := stages.Recipe{Format: 1, Kind: stages.KindInstall, Commands: &stages.Commands{Script: []string{"echo \xff"}}}
	if b, err := r.Encode(); err == nil {
		t.Errorf("encoded as %s: JSON would give it the encoding of another recipe", b)
	}
}

func TestDecodeTakesOnlyTheCanonicalEncoding(t *testing.T) {
	for name, b := range map[string]string{
		"white space":      `{"format":1, "kind":"from","platform":"linux/amd64"}`,
		"another order":    `{"kind":"from","format":1,"platform":"linux/amd64"}`,
		"unknown field":    `{"format":1,"kind":"from","platform":"linux/amd64","z":1}`,
		"twice":            `{"format":1,"format":1,"kind":"from","platform":"linux/amd64"}`,
		"an empty default": `{"base":"","format":1,"kind":"from","platform":"linux/amd64"}`,
		"needless escape":  `{"format":1,"kind":"\u0066rom","platform":"linux/amd64"}`,
		"other case":       `{"Format":1,"kind":"from","platform":"linux/amd64"}`,
		"something after":  `{"format":1,"kind":"from","platform":"linux/amd64"}{}`,
		"nothing":          ``,
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := stages.DecodeRecipe([]byte(b)); !errors.Is(err, stages.ErrNotCanonical) {
				t.Errorf("got %+v and error %v, want ErrNotCanonical", r, err)
			}
		})
	}
}

func FuzzDecodeRecipe(f *testing.F) {
	f.Add([]byte(`{"base":"sha256:aa","format":1,"kind":"from","platform":"linux/amd64"}`))
	f.Add([]byte(`{"commands":{"interpreter":"sh","script":["a"]},"format":1,"kind":"install","platform":"linux/amd64"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := stages.DecodeRecipe(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || string(again) != string(b) {
			t.Errorf("decoded %q, encoded again %q (%v)", b, again, err)
		}
	})
}

// drawRecipe makes recipes in their normal form: what is empty is nil.
func drawRecipe(t *rapid.T) stages.Recipe {
	text := rapid.SampledFrom([]string{"", "a", "b", "é", `"`, "\u2028", "<", "\\", "\x00", "a\nb", ":", ",", "}"})
	texts := rapid.Custom(func(t *rapid.T) []string {
		v := rapid.SliceOfN(text, 0, 3).Draw(t, "texts")
		if len(v) == 0 {
			return nil
		}
		return v
	})
	digest := rapid.Custom(func(t *rapid.T) stages.Digest { return digestOf(text.Draw(t, "d")) })
	r := stages.Recipe{
		Format:   stages.RecipeFormat,
		Kind:     rapid.SampledFrom(stages.Kinds()).Draw(t, "kind"),
		Platform: rapid.SampledFrom([]stages.Platform{"linux/amd64", "linux/arm64"}).Draw(t, "platform"),
		Base:     text.Draw(t, "base"),
		Salt:     text.Draw(t, "salt"),
	}
	if rapid.Bool().Draw(t, "parent") {
		r.Parent = ptr(digest.Draw(t, "parent digest"))
	}
	if rapid.Bool().Draw(t, "commands") {
		r.Commands = &stages.Commands{Interpreter: text.Draw(t, "i"), Network: text.Draw(t, "n"), CacheVersion: text.Draw(t, "v"), Script: texts.Draw(t, "script")}
	}
	for range rapid.IntRange(0, 2).Draw(t, "files") {
		r.Files = append(r.Files, stages.FileSet{Files: digest.Draw(t, "f"), To: text.Draw(t, "to"), Owner: text.Draw(t, "o"), Group: text.Draw(t, "g")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "imports") {
		r.Imports = append(r.Imports, stages.Import{From: digest.Draw(t, "f"), Add: text.Draw(t, "a"), To: text.Draw(t, "t"), IncludePaths: texts.Draw(t, "in"), ExcludePaths: texts.Draw(t, "ex")})
	}
	if rapid.Bool().Draw(t, "config") {
		r.Config = &stages.Config{User: text.Draw(t, "u"), Cmd: texts.Draw(t, "cmd"), Entrypoint: texts.Draw(t, "e")}
		if rapid.Bool().Draw(t, "env") {
			r.Config.Env = map[string]string{text.Draw(t, "k"): text.Draw(t, "v")}
		}
	}
	return r
}

func TestRecipesAreEqualExactlyWhenTheirEncodingsAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawRecipe(t), drawRecipe(t)
		ea, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		eb, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if (string(ea) == string(eb)) != reflect.DeepEqual(a, b) {
			t.Fatalf("%+v\n%+v\nencode as\n%s\n%s", a, b, ea, eb)
		}
		back, err := stages.DecodeRecipe(ea)
		if err != nil {
			t.Fatalf("%s: %v", ea, err)
		}
		if a.Commands != nil && a.Commands.Script == nil {
			return // a section without commands does not exist; its null decodes to nil as well
		}
		if !reflect.DeepEqual(*back, a) {
			t.Fatalf("%s decodes to %+v, want %+v", ea, *back, a)
		}
	})
}

func TestFieldsStandInTheOrderOfTheirNames(t *testing.T) {
	for _, v := range []any{stages.Recipe{}, stages.Commands{}, stages.FileSet{}, stages.Import{}, stages.Config{}, stages.Healthcheck{}} {
		typ, last := reflect.TypeOf(v), ""
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name <= last {
				t.Errorf("%s: %q stands after %q", typ, name, last)
			}
			last = name
		}
	}
}

func TestParsePlatformAndDigest(t *testing.T) {
	for in, want := range map[string]stages.Platform{"linux/amd64": "linux/amd64", "linux/arm64/v8": "linux/arm64", "linux/arm/v7": "linux/arm/v7"} {
		if p, err := stages.ParsePlatform(in); err != nil || p != want {
			t.Errorf("%s: %q, %v", in, p, err)
		}
	}
	for _, in := range []string{"", "linux", "linux/", "Linux/amd64", "a/b/c/d", "linux/amd64\n"} {
		if p, err := stages.ParsePlatform(in); err == nil {
			t.Errorf("%q was taken as %q", in, p)
		}
	}
	d := digestOf("x")
	for _, s := range []string{d.String(), d.Hex()} {
		if got, err := stages.ParseDigest(s); err != nil || got != d {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "sha256:", d.Hex()[1:], strings.ToUpper(d.Hex()), "sha512:" + d.Hex(), d.Hex()[:63] + "g"} {
		if got, err := stages.ParseDigest(s); err == nil {
			t.Errorf("%q was taken as %s", s, got)
		}
	}
}
