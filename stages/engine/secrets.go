package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"github.com/cairnbuild/cairn/stages"
)

// MaxSecret is how many bytes a secret may have; the engine takes no longer ones.
const MaxSecret = secretsprovider.MaxSecretSize

// ErrNoSecret says that a secret is not among those that are given.
var ErrNoSecret = errors.New("no such secret")

// Secrets gives the values of secrets to commands that mount them.
type Secrets interface {
	// Secret returns the value with that id, at most [MaxSecret] bytes, or an error
	// that wraps [ErrNoSecret]. It is called when commands are about to run that
	// need it, from several goroutines.
	Secret(ctx context.Context, id string) ([]byte, error)
}

// Agent is an SSH agent that commands may ask to sign.
type Agent struct {
	// ID is the name that mounts know it by.
	ID string
	// Paths is the socket of an agent, or one or several files with private keys
	// that need no passphrase. The keys themselves never reach the engine.
	Paths []string
}

// NewAgents makes agents available. It opens key files, and no socket yet.
func NewAgents(list []Agent) (*Agents, error) {
	configs := make([]sshprovider.AgentConfig, len(list))
	for i, a := range list {
		configs[i] = sshprovider.AgentConfig{ID: a.ID, Paths: a.Paths}
	}
	p, err := sshprovider.NewSSHAgentProvider(configs)
	if err != nil {
		return nil, err
	}
	return &Agents{p}, nil
}

// Agents are what [NewAgents] made available.
type Agents struct{ provider session.Attachable }

// secretStore reads secrets when the engine asks for them, and has what was read
// masked in all that commands write.
type secretStore struct {
	source Secrets // may be nil
	masks  masks

	mu sync.Mutex
	// failed tells why a secret could not be read when it was last asked for.
	failed map[string]error
}

func newSecretStore(source Secrets, p Proxy) *secretStore {
	s := &secretStore{source: source, failed: map[string]error{}}
	for _, address := range []string{p.HTTP, p.HTTPS, p.FTP, p.All} {
		s.masks.addPassword(address)
	}
	return s
}

// GetSecret implements [secrets.SecretStore].
func (s *secretStore) GetSecret(ctx context.Context, id string) ([]byte, error) {
	b, err := s.read(ctx, id)
	s.mu.Lock()
	s.failed[id] = err
	s.mu.Unlock()
	if errors.Is(err, ErrNoSecret) {
		// Not ours but the engine's error: it is what makes an optional secret optional.
		return nil, fmt.Errorf("secret %s: %w", id, secrets.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	s.masks.add(b)
	return b, nil
}

func (s *secretStore) read(ctx context.Context, id string) ([]byte, error) {
	if s.source == nil {
		return nil, ErrNoSecret
	}
	b, err := s.source.Secret(ctx, id)
	if err == nil && len(b) > MaxSecret {
		err = fmt.Errorf("it has %d bytes; at most %d are allowed", len(b), MaxSecret)
	}
	return b, err
}

// failure returns why a secret that the job needs could not be read, nil where
// none failed. The engine itself passes on no more than a text.
func (s *secretStore) failure(j *Job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	// The function given here never fails.
	_ = j.visit(map[*Job]bool{}, func(j *Job) error {
		for _, id := range j.secrets() {
			if err := s.failed[id]; failed == nil && err != nil {
				failed = fmt.Errorf("%s: secret %q: %w", j.Name, id, err)
			}
		}
		return nil
	})
	return failed
}

// secrets returns the ids of those that the job itself mounts.
func (j *Job) secrets() []string {
	var out []string
	if j.Dockerfile != nil {
		out = append(out, j.Dockerfile.Recipe.Secrets...)
	}
	if j.Commands != nil {
		for _, m := range j.Commands.Mounts {
			if m.Type == stages.MountSecret {
				out = append(out, m.ID)
			}
		}
	}
	return out
}

// namedSecrets are those that a job and what it is made from mount. The engine asks
// for others of its own accord, for instance before it fetches a repository.
type namedSecrets struct {
	*secretStore
	ids map[string]bool
}

// GetSecret implements [secrets.SecretStore].
func (s namedSecrets) GetSecret(ctx context.Context, id string) ([]byte, error) {
	if !s.ids[id] {
		return nil, fmt.Errorf("secret %s: %w", id, secrets.ErrNotFound)
	}
	return s.secretStore.GetSecret(ctx, id)
}

// attach offers to a session what the commands of a job may mount.
func (e *Engine) attach(s *session.Session, job *Job) {
	named := namedSecrets{e.secrets, map[string]bool{}}
	// The function given here never fails.
	_ = job.visit(map[*Job]bool{}, func(j *Job) error {
		for _, id := range j.secrets() {
			named.ids[id] = true
		}
		return nil
	})
	s.Allow(secretsprovider.NewSecretProvider(named))
	if e.agents != nil {
		s.Allow(e.agents.provider)
	}
}
