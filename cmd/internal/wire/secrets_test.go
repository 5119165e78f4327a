package wire

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
)

func hostWith(env map[string]string) Host {
	return Host{Getenv: func(name string) string { return env[name] }}
}

func TestSecretsAreFoundWhereTheFlagSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a,b")
	if err := os.WriteFile(file, []byte("from the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := ParseGiven(hostWith(map[string]string{"TOKEN": "from the variable"}), []string{
		"id=env,env=TOKEN", "type=env,id=typed,env=TOKEN", "id=TOKEN", `id=file,"src=` + file + `"`, `"source=` + file + `",id=other`, "id=absent,src=/nowhere/x", "id=unset,env=UNSET",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"env": "from the variable", "typed": "from the variable", "TOKEN": "from the variable",
		"file": "from the file\n", "other": "from the file\n",
	} {
		b, err := g.Secret(t.Context(), id)
		if err != nil || string(b) != want {
			t.Errorf("secret %s: %q, %v", id, b, err)
		}
		if err := g.Offer(stages.Mount{Type: stages.MountSecret, ID: id}); err != nil {
			t.Errorf("secret %s is not offered: %v", id, err)
		}
	}
	if _, err := g.Secret(t.Context(), "none"); !errors.Is(err, engine.ErrNoSecret) {
		t.Errorf("a secret that is not given: %v", err)
	}
	for id, want := range map[string]string{"none": "which is not given", "absent": "/nowhere/x", "unset": "the variable UNSET is not set"} {
		err := g.Offer(stages.Mount{Type: stages.MountSecret, ID: id})
		var refused *build.NotOfferedError
		if !errors.As(err, &refused) || refused.Mount.ID != id || !strings.Contains(err.Error(), want) {
			t.Errorf("secret %s: %v, want %q", id, err, want)
		}
	}
}

func TestAPipeIsReadOnce(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("once"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	path := filepath.Join("/dev/fd", strconv.Itoa(int(r.Fd())))
	g, err := ParseGiven(hostWith(nil), []string{"id=x,src=" + path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if b, err := g.Secret(t.Context(), "x"); err != nil || string(b) != "once" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

func TestSecretsAndAgentsThatCannotBeReadAreRefusedWithoutShowingThem(t *testing.T) {
	const planted = "hunter2-planted"
	for _, v := range []string{planted, "id=" + planted + ",id=", planted + "=x", "id=x,src=a,env=" + planted, "src=" + planted, `id="` + planted} {
		if _, err := ParseGiven(hostWith(nil), []string{v}, nil); !isSetting(err) || strings.Contains(err.Error(), planted) {
			t.Errorf("--secret %s: %v", v, err)
		}
	}
	for _, v := range []string{"default", "=" + planted, planted + "/x"} {
		if _, err := ParseGiven(hostWith(nil), nil, []string{v}); !isSetting(err) || strings.Contains(err.Error(), planted) {
			t.Errorf("--ssh %s: %v", v, err)
		}
	}
	if _, err := ParseGiven(hostWith(nil), []string{"id=x,env=A", "id=x,env=B"}, nil); !isSetting(err) {
		t.Errorf("an id that is given twice: %v", err)
	}
	if _, err := ParseGiven(hostWith(nil), nil, []string{"x=/a", "x=/b"}); !isSetting(err) {
		t.Errorf("an agent that is given twice: %v", err)
	}
}

func isSetting(err error) bool {
	var s *SettingError
	return errors.As(err, &s)
}

func TestASecretThatIsTooLongIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(file, make([]byte, engine.MaxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := ParseGiven(hostWith(map[string]string{"LONG": strings.Repeat("x", engine.MaxSecret+1)}), []string{"id=file,src=" + file, "id=env,env=LONG"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"file", "env"} {
		if _, err := g.Secret(t.Context(), id); err == nil || !strings.Contains(err.Error(), "512000") {
			t.Errorf("secret %s: %v", id, err)
		}
	}
}

func TestAgentsAreOffered(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := ParseGiven(hostWith(map[string]string{"SSH_AUTH_SOCK": "/nowhere/agent"}), nil, []string{"default", "bad=" + key})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"default": "/nowhere/agent", "bad": key, "none": "which is not given"} {
		if err := g.Offer(stages.Mount{Type: stages.MountSSH, ID: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("agent %s: %v, want %q", id, err, want)
		}
	}
	if _, err := g.agentsOf(); !isSetting(err) {
		t.Errorf("agents that cannot be opened: %v", err)
	}
}
