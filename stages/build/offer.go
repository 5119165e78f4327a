package build

import (
	"context"
	"fmt"

	"github.com/cairnbuild/cairn/stages"
)

// NotOfferedError says that commands need a secret or an agent that was not
// given, or that cannot be read.
type NotOfferedError struct {
	Mount stages.Mount
	// Err is why it cannot be read; nil when it was not given.
	Err error
}

// Error implements error.
func (e *NotOfferedError) Error() string {
	what := fmt.Sprintf("the secret %q", e.Mount.ID)
	if e.Mount.Type == stages.MountSSH {
		what = fmt.Sprintf("the SSH agent %q", e.Mount.ID)
	}
	if e.Err == nil {
		return fmt.Sprintf("its commands need %s, which is not given", what)
	}
	return fmt.Sprintf("its commands need %s: %v", what, e.Err)
}

// Unwrap returns the cause.
func (e *NotOfferedError) Unwrap() error { return e.Err }

// offered makes sure that what the commands of s are to be given is there. It is
// asked when s must be made here and before anything that s is built upon is: a
// build that finds its stages, or adopts them, needs no secrets.
func (r *run) offered(s *stages.Stage) error {
	for _, m := range given(s) {
		if r.Offer == nil {
			return &NotOfferedError{Mount: m}
		}
		if err := r.Offer(m); err != nil {
			return err
		}
	}
	return nil
}

// given returns the mounts of a stage that whoever builds must give something for.
func given(s *stages.Stage) []stages.Mount {
	var out []stages.Mount
	if d := s.Recipe.Dockerfile; d != nil {
		for _, id := range d.Secrets {
			out = append(out, stages.Mount{Type: stages.MountSecret, ID: id})
		}
		for _, id := range d.SSH {
			out = append(out, stages.Mount{Type: stages.MountSSH, ID: id})
		}
	}
	if s.Recipe.Commands == nil {
		return out
	}
	for _, m := range s.Recipe.Commands.Mounts {
		if m.IsGiven() {
			out = append(out, m)
		}
	}
	return out
}

// offeredUnlessKept is offered for a stage that an earlier run may have made and
// kept: what is in the local cache asks for no secret any more.
func (r *run) offeredUnlessKept(ctx context.Context, n *node) error {
	err := r.offered(n.stage)
	if err == nil {
		return nil
	}
	n.mu.Lock()
	mine := n.candidate
	n.mu.Unlock()
	if mine != nil || r.fromPad(ctx, n) != nil {
		return nil
	}
	return err
}
