package wire

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
)

// Given is what the command line gives to commands by name: secrets and SSH
// agents. Nothing is read before commands ask for it.
type Given struct {
	secrets []secretSource
	agents  []engine.Agent
	getenv  func(string) string

	mu sync.Mutex
	// values are those read, by id: a file may be a pipe that gives its content once.
	values map[string][]byte
}

// secretSource is where a secret is found: in a file or in a variable.
type secretSource struct{ id, file, env string }

// Words of --secret and --ssh in messages. What was given is never repeated there:
// it may be the secret itself, from somebody who took the flag for another one.
const (
	secretForm = "want id=ID,src=FILE or id=ID,env=VARIABLE" //nolint:gosec // the form of one, and none
	sshForm    = "want ID[=SOCKET] or ID=KEYFILE[,KEYFILE…], for instance default"
)

// ParseGiven reads the values of --secret and --ssh, in the form that Docker's
// buildx has. An error is a [*SettingError].
func ParseGiven(h Host, secrets, agents []string) (*Given, error) {
	g := &Given{getenv: h.Getenv, values: map[string][]byte{}}
	for i, v := range secrets {
		s, err := g.parseSecret(v)
		if err == nil {
			_, known := g.secret(s.id)
			err = onceOnly(known, s.id)
		}
		if err != nil {
			return nil, &SettingError{"--secret", fmt.Errorf("number %d: %w", i+1, err), secretForm}
		}
		g.secrets = append(g.secrets, s)
	}
	for i, v := range agents {
		a, err := g.parseAgent(v)
		if err == nil {
			_, known := g.agent(a.ID)
			err = onceOnly(known, a.ID)
		}
		if err != nil {
			return nil, &SettingError{"--ssh", fmt.Errorf("number %d: %w", i+1, err), sshForm}
		}
		g.agents = append(g.agents, a)
	}
	return g, nil
}

func onceOnly(known bool, id string) error {
	if known {
		return fmt.Errorf("the id %q is given twice", id)
	}
	return nil
}

func (g *Given) parseSecret(v string) (secretSource, error) {
	s, err := parseSource(v)
	switch {
	case err != nil:
		return s, err
	case s.id == "":
		return s, errors.New("it has no id")
	case s.file != "" && s.env != "":
		return s, errors.New("src and env exclude each other")
	case s.file == "" && s.env == "":
		s.env = s.id
		if g.getenv(s.id) == "" {
			s.env, s.file = "", s.id
		}
	}
	return s, nil
}

// parseSource reads what stands in a secret's flag.
func parseSource(v string) (secretSource, error) {
	var s secretSource
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return s, errors.New("it cannot be split at commas")
	}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, "=")
		switch {
		case !ok || value == "":
			return s, errors.New("a part has no value")
		case name == "id":
			s.id = value
		case name == "src" || name == "source":
			s.file = value
		case name == "env":
			s.env = value
		case name == "type" && (value == "file" || value == "env"):
		default:
			return s, errors.New("a part is not known")
		}
	}
	return s, nil
}

func (g *Given) parseAgent(v string) (engine.Agent, error) {
	id, paths, _ := strings.Cut(v, "=")
	if id == "" || strings.ContainsAny(id, "/, \t\n") {
		return engine.Agent{}, errors.New("it has no id")
	}
	if paths == "" {
		paths = g.getenv("SSH_AUTH_SOCK")
	}
	if paths == "" {
		return engine.Agent{}, errors.New("it names no socket, and SSH_AUTH_SOCK is not set")
	}
	return engine.Agent{ID: id, Paths: strings.Split(paths, ",")}, nil
}

func (g *Given) secret(id string) (secretSource, bool) {
	for _, s := range g.secrets {
		if s.id == id {
			return s, true
		}
	}
	return secretSource{}, false
}

func (g *Given) agent(id string) (engine.Agent, bool) {
	for _, a := range g.agents {
		if a.ID == id {
			return a, true
		}
	}
	return engine.Agent{}, false
}

// Offer implements build.Options.Offer.
func (g *Given) Offer(m stages.Mount) error {
	var known bool
	var err error
	if m.Type == stages.MountSSH {
		var a engine.Agent
		if a, known = g.agent(m.ID); known {
			// Keys that cannot be used would only be met when the engine is there.
			_, err = engine.NewAgents([]engine.Agent{a})
		}
	} else {
		var s secretSource
		if s, known = g.secret(m.ID); known {
			_, err = g.value(s)
		}
	}
	if known && err == nil {
		return nil
	}
	return &build.NotOfferedError{Mount: m, Err: err}
}

// Secret implements engine.Secrets.
func (g *Given) Secret(_ context.Context, id string) ([]byte, error) {
	s, ok := g.secret(id)
	if !ok {
		return nil, engine.ErrNoSecret
	}
	return g.value(s)
}

func (g *Given) value(s secretSource) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b, ok := g.values[s.id]; ok {
		return b, nil
	}
	b, err := g.read(s)
	if err != nil {
		return nil, err
	}
	g.values[s.id] = b
	return b, nil
}

// read returns the value as it is, a line end at its end included.
func (g *Given) read(s secretSource) ([]byte, error) {
	if s.env != "" {
		v := g.getenv(s.env)
		switch {
		case v == "":
			return nil, fmt.Errorf("the variable %s is not set", s.env)
		case len(v) > engine.MaxSecret:
			return nil, tooLong("the variable " + s.env)
		}
		return []byte(v), nil
	}
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, engine.MaxSecret+1))
	if err == nil && len(b) > engine.MaxSecret {
		err = tooLong(s.file)
	}
	return b, err
}

func tooLong(what string) error {
	return fmt.Errorf("%s holds more than %d bytes", what, engine.MaxSecret)
}

// agentsOf opens the agents; nil where none are given.
func (g *Given) agentsOf() (*engine.Agents, error) {
	if len(g.agents) == 0 {
		return nil, nil
	}
	a, err := engine.NewAgents(g.agents)
	if err != nil {
		return nil, &SettingError{"--ssh", err, sshForm}
	}
	return a, nil
}
