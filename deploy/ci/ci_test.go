package ci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// secret is the password in all cases; nothing that is written may hold it.
const secret = "hunter2"

// job is a case of testdata/systems: the variables and files of a job and what the
// user says, each as a file of an archive.
type job struct {
	path    string
	archive *txtar.Archive
	env     map[string]string
	files   map[string][]byte
	request Request
}

func jobs(t *testing.T) []job {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "systems", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	out := make([]job, 0, len(paths))
	for _, path := range paths {
		out = append(out, readJob(t, path))
	}
	return out
}

func readJob(t *testing.T, path string) job {
	t.Helper()
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	j := job{path: path, archive: a, env: map[string]string{}, files: map[string][]byte{}}
	for _, f := range a.Files {
		switch f.Name {
		case "env":
			for line := range strings.Lines(string(f.Data)) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				j.env[name] = value
			}
		case "request":
			j.readRequest(t, string(f.Data))
		default:
			j.files[f.Name] = f.Data
		}
	}
	return j
}

func (j *job) readRequest(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "system":
			j.request.System = System(value)
		case "storage":
			j.request.Storage = value
		case "secondary":
			j.request.Secondary = value
		case "synchronization":
			j.request.Synchronization = value
		case "protected":
			j.request.Protected = strings.Fields(value)
		case "user":
			j.request.User = value
		case "password":
			j.request.Password = value
		default:
			t.Fatalf("%s: %q", j.path, line)
		}
	}
}

func (j *job) surroundings() Surroundings {
	return Surroundings{
		Getenv: func(name string) string { return j.env[name] },
		ReadFile: func(path string, limit int64) ([]byte, error) {
			b, ok := j.files[path]
			if !ok || int64(len(b)) > limit {
				return nil, fs.ErrNotExist
			}
			return b, nil
		},
		Ledger: func(storage string) string {
			if storage == local {
				return local
			}
			return "kubernetes://cairn-synchronization"
		},
	}
}

// told is a result as golden files have it.
func told(t *testing.T, r Result) string {
	t.Helper()
	var b strings.Builder
	text, _, err := r.Encode(JSON, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(text)
	if r.Login != nil {
		fmt.Fprintf(&b, "login %v\n", r.Login)
	}
	if r.Temp != "" {
		fmt.Fprintf(&b, "temp %s\n", r.Temp)
	}
	return b.String()
}

func TestEverySystemIsUnderstoodByItsDocumentedVariables(t *testing.T) {
	for _, j := range jobs(t) {
		t.Run(strings.TrimSuffix(filepath.Base(j.path), ".txtar"), func(t *testing.T) {
			r, err := Derive(j.surroundings(), j.request)
			if err != nil {
				t.Fatal(err)
			}
			got := told(t, r)
			if strings.Contains(got, secret) || strings.Contains(fmt.Sprintf("%v %+v %#v", r, r, r.Login), secret) {
				t.Error("the password is shown")
			}
			i := slices.IndexFunc(j.archive.Files, func(f txtar.File) bool { return f.Name == "want" })
			if *update {
				j.archive.Files[i].Data = []byte(got)
				if err := os.WriteFile(j.path, txtar.Format(j.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(j.archive.Files[i].Data); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestEverySystemHasACase(t *testing.T) {
	seen := map[System]bool{}
	for _, j := range jobs(t) {
		r, err := Derive(j.surroundings(), j.request)
		if err != nil {
			t.Fatal(err)
		}
		seen[r.Run.System] = true
	}
	for _, s := range Systems() {
		if !seen[s] {
			t.Errorf("%s has none", s)
		}
	}
}

// A job may call it in each of its steps.
func TestASecondCallInAJobDerivesTheSame(t *testing.T) {
	for _, j := range jobs(t) {
		t.Run(filepath.Base(j.path), func(t *testing.T) {
			first, err := Derive(j.surroundings(), j.request)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range first.Assignments {
				j.env[a.Name] = a.Value
			}
			again := j.request
			again.Storage, again.Secondary, again.Synchronization = j.env["CAIRN_STAGES_STORAGE"], j.env["CAIRN_SECONDARY_STORAGE"], j.env["CAIRN_SYNCHRONIZATION"]
			second, err := Derive(j.surroundings(), again)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range second.Assignments {
				if a.Value != j.env[a.Name] {
					t.Errorf("%s is %q and then %q", a.Name, j.env[a.Name], a.Value)
				}
			}
		})
	}
}

// Whatever a run that is not protected is told to use, it is not told to write
// where the protected ones do.
func TestOnlyProtectedRunsWriteToTheProjectsPlaces(t *testing.T) {
	for _, j := range jobs(t) {
		r, err := Derive(j.surroundings(), j.request)
		if err != nil {
			t.Fatal(err)
		}
		if r.Scope == Protected {
			continue
		}
		vars := map[string]string{}
		for _, a := range r.Assignments {
			vars[a.Name] = a.Value
		}
		if s := vars["CAIRN_STAGES_STORAGE"]; s != "" && s != local && !strings.HasSuffix(s, "-"+string(r.Scope)) {
			t.Errorf("%s writes to %s", j.path, s)
		}
		if s := vars["CAIRN_SYNCHRONIZATION"]; s != "" && s != local && !strings.Contains(s, "-"+string(r.Scope)) {
			t.Errorf("%s coordinates in %s", j.path, s)
		}
	}
}

func TestNotesRepeatNoValue(t *testing.T) {
	const marker = "\n::set-env name=x::##vso[task.setvariable]##teamcity[x]"
	for _, j := range jobs(t) {
		for name := range maps.Clone(j.env) {
			if slices.ContainsFunc(signs(), func(s struct {
				system System
				name   string
			}) bool {
				return s.name == name
			}) {
				continue
			}
			kept := j.env[name]
			j.env[name] = marker + strings.Repeat("x", 2*maxFact)
			r, err := Derive(j.surroundings(), j.request)
			if text := fmt.Sprint(r.Notes, err); strings.ContainsAny(text, "\n#") || strings.Contains(text, "::") {
				t.Errorf("%s: %s is told: %s", j.path, name, text)
			}
			j.env[name] = kept
		}
	}
}

func TestWhatIsNoSystemIsRefused(t *testing.T) {
	none := Surroundings{Getenv: func(string) string { return "" }}
	if _, err := Derive(none, Request{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("no system: %v", err)
	}
	var unknown *SystemError
	if _, err := Derive(none, Request{System: "cruise"}); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "jenkins") {
		t.Errorf("another system: %v", err)
	}
}

func TestWhatCannotBeASettingIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		env     map[string]string
		request Request
	}{
		"a repository that is none":         {map[string]string{"CI_REGISTRY_IMAGE": "registry.example.com/$(id)"}, Request{}},
		"a project that is no repository":   {map[string]string{"CI_REGISTRY_IMAGE": "registry.example.com/a/.github"}, Request{}},
		"a namespace that is too long":      {nil, Request{Storage: "registry.example.com/a", Synchronization: "kubernetes://" + strings.Repeat("n", 60)}},
		"a password without a name":         {nil, Request{Storage: "registry.example.com/a", Password: "x"}},
		"a user with a colon":               {nil, Request{Storage: "registry.example.com/a", User: "a:b", Password: "x"}},
		"a secondary repository of nowhere": {nil, Request{Storage: "registry.example.com/a-unprotected", Secondary: "a b"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"GITLAB_CI": "true"}
			maps.Copy(env, c.env)
			j := job{env: env}
			_, err := Derive(j.surroundings(), c.request)
			var value *ValueError
			if !errors.As(err, &value) || value.Hint() == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPatternsMatchWholeReferences(t *testing.T) {
	for _, c := range []struct {
		pattern, ref string
		want         bool
	}{
		{"refs/heads/main", "refs/heads/main", true},
		{"refs/heads/main", "refs/heads/main2", false},
		{"refs/heads/release/*", "refs/heads/release/1/x", true},
		{"refs/heads/release/*", "refs/heads/release", false},
		{"refs/tags/v*", "refs/tags/v1", true},
		{"refs/tags/v*", "refs/heads/v1", false},
		{"refs/*/a*b*c", "refs/heads/axbxc", true},
		{"refs/*/a*b*c", "refs/heads/axc", false},
		{"refs/*ab*ba", "refs/aba", false},
		{"*", "refs/heads/x", true},
	} {
		if got := matchStars(c.pattern, c.ref); got != c.want {
			t.Errorf("%s, %s: %t", c.pattern, c.ref, got)
		}
	}
}

func TestALoginGoesIntoADockerConfiguration(t *testing.T) {
	l := Login{Registry: "registry.example.com", User: "robot", password: secret}
	const auth = `{"auth":"cm9ib3Q6aHVudGVyMg=="}`
	for name, c := range map[string]struct{ existing, want string }{
		"where there was none":   {``, `{"auths":{"registry.example.com":` + auth + `}}`},
		"beside others":          {`{"auths":{"a":{"auth":"b"}},"currentContext":"remote"}`, `{"auths":{"a":{"auth":"b"},"registry.example.com":` + auth + `}}`},
		"in place of a helper":   {`{"credHelpers":{"registry.example.com":"x"}}`, `{"auths":{"registry.example.com":` + auth + `},"credHelpers":{"registry.example.com":""}}`},
		"in place of a store":    {`{"credsStore":"x"}`, `{"auths":{"registry.example.com":` + auth + `},"credHelpers":{"registry.example.com":""},"credsStore":"x"}`},
		"beside helpers":         {`{"credHelpers":{"b":"x"}}`, `{"auths":{"registry.example.com":` + auth + `},"credHelpers":{"b":"x","registry.example.com":""}}`},
		"in place of an old one": {`{"auths":{"registry.example.com":{"auth":"old"}}}`, `{"auths":{"registry.example.com":` + auth + `}}`},
		"where there are nulls":  {`{"auths":null,"credHelpers":null}`, `{"auths":{"registry.example.com":` + auth + `},"credHelpers":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := l.Config([]byte(c.existing))
			if err != nil || string(got) != c.want {
				t.Errorf("%v\n%s\n%s", err, got, c.want)
			}
		})
	}
	for _, bad := range []string{`{"auths":[]}`, `[`, `{"credHelpers":"` + secret + `"}`} {
		if _, err := l.Config([]byte(bad)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if hub := (Login{Registry: registryOf("acme/shop")}); hub.key() != "https://index.docker.io/v1/" {
		t.Errorf("Docker Hub is %s", hub.key())
	}
}

func FuzzEvent(f *testing.F) {
	for _, seed := range []string{`{}`, `{"pull_request":null}`, `{"pull_request":{"head":{"sha":"x","repo":{"id":1}}}}`, `[`, `{"issue":{"number":-1}}`} {
		f.Add(seed, "pull_request")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		j := job{env: map[string]string{
			"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": "e", "GITHUB_REF": "refs/pull/1/merge",
			"GITHUB_SHA": strings.Repeat("a", 40), "GITHUB_REPOSITORY": "a/b", "GITHUB_SERVER_URL": "https://github.com",
		}, files: map[string][]byte{"e": []byte(text)}}
		r, err := Derive(j.surroundings(), Request{})
		if err != nil {
			t.Fatal(err)
		}
		if c := r.Run.Commit; c == strings.Repeat("a", 40) && !strings.Contains(strings.ToLower(text), c) || c != "" && !hexOf(c, 40) && !hexOf(c, 64) {
			t.Errorf("the commit is %q", c)
		}
		if r.Scope == Protected {
			t.Error("it is protected")
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add("a=b\nc\\\n d : e\\u0041\\uD83D\\uDE00\n#x\n!y\n\\=k=v\n")
	f.Fuzz(func(t *testing.T, text string) {
		for k, v := range parseProperties(text) {
			if len(k)+len(v) > 3*len(text) {
				t.Errorf("%q gave %q = %q", text, k, v)
			}
		}
	})
}

func TestPropertiesAreReadAsJavaDoes(t *testing.T) {
	got := parseProperties("# c\n! c\n\n  a = b \nk\\=1=v\\\n   w\nc:\\td\nlast\\\\\nu=\\u00e9\\uD83D\\uDE00\\u12\r\nb\\:c d")
	want := map[string]string{"a": "b ", "k=1": "vw", "c": "\td", `last\`: "", "u": "é😀u12", "b:c": "d"}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("got %s, want %s", g, w)
	}
}
