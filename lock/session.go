package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// DefaultTTL is how long a session may go without a renewal.
const DefaultTTL = 30 * time.Second

// SessionOptions describe a session.
type SessionOptions struct {
	// Group is where the session's record is kept.
	Group string
	// Holder says for people who it is.
	Holder string
	// TTL is after how long others may take the session for dead; 0 means
	// [DefaultTTL].
	TTL time.Duration
}

// Session is a process's promise to be alive. It renews one record in the
// background until [Session.Leave].
type Session struct {
	client *Client
	group  string
	record Record // Seq is that of the last attempt; owned by the renewing goroutine

	ctx  context.Context
	lose context.CancelCauseFunc
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	renewed time.Time   // when the last renewal that succeeded was sent
	alarm   *time.Timer // loses the session, whatever a renewal is stuck in
}

// Join makes a session. Its context is a child of ctx; the renewals do not end
// with ctx, so that what the session holds can still be released in order.
func (c *Client) Join(ctx context.Context, o SessionOptions) (*Session, error) {
	id, err := c.Nonce()
	if err != nil {
		return nil, err
	}
	s := &Session{
		client: c,
		group:  o.Group,
		record: Record{Session: id, Holder: o.Holder, Seq: 1, TTL: cmp.Or(o.TTL, DefaultTTL)},
		done:   make(chan struct{}),
	}
	if err := c.Retry(ctx, s.first); err != nil {
		return nil, fmt.Errorf("join %s: %w", o.Group, err)
	}
	s.ctx, s.lose = context.WithCancelCause(ctx)
	var renewing context.Context
	renewing, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	s.alarm = time.AfterFunc(s.holds()-c.now().Sub(s.renewed), s.expire)
	s.mu.Unlock()
	go s.run(renewing)
	return s, nil
}

// first makes the record.
func (s *Session) first(ctx context.Context) error {
	sent := s.client.now()
	if err := s.client.store.Renew(ctx, s.group, s.record); err != nil {
		return err
	}
	s.renewed = sent
	return nil
}

// ID returns the session's id.
func (s *Session) ID() string { return s.record.Session }

// Context returns the context under which the session's work is done. It is
// cancelled with cause [ErrLost] when the session could not be renewed in time.
func (s *Session) Context() context.Context { return s.ctx }

// holds is for how long after a renewal was sent the session trusts itself. It
// is shorter than the TTL that others wait for, and they begin to count later, so
// the owner stops first even where the clocks' rates differ a little.
func (s *Session) holds() time.Duration { return s.record.TTL - s.record.TTL/4 }

// Check returns nil when the session is surely alive to others. It does not
// depend on a timer having fired, so it is right even directly after a pause of
// the whole process.
func (s *Session) Check() error {
	s.mu.Lock()
	late := s.client.now().Sub(s.renewed) >= s.holds()
	s.mu.Unlock()
	if late {
		s.expire()
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return nil
}

// expire loses the session, unless it was renewed meanwhile.
func (s *Session) expire() {
	s.mu.Lock()
	silent := s.client.now().Sub(s.renewed)
	s.mu.Unlock()
	if silent >= s.holds() {
		s.lose(fmt.Errorf("%w: not renewed for %s", ErrLost, silent.Round(time.Millisecond)))
	}
}

// run renews until the session ends or is lost.
func (s *Session) run(ctx context.Context) {
	defer close(s.done)
	quarter := s.record.TTL / 4
	next := quarter - s.client.Jitter(quarter/4)
	silent := false
	heard := s.client.now()
	for sleep(ctx, next) == nil {
		if !silent {
			heard = s.client.now()
		}
		err := s.renew(ctx)
		switch {
		case err == nil:
			if silent {
				s.client.tell(Outage{})
			}
			silent = false
			next = quarter - s.client.Jitter(quarter/4)
		case errors.Is(err, ErrNoSession):
			s.lose(fmt.Errorf("%w: %w", ErrLost, err))
			return
		case errors.Is(context.Cause(s.ctx), ErrLost):
			return
		default:
			if ctx.Err() == nil {
				silent = true
				s.client.tell(Outage{Err: err, Silent: s.client.now().Sub(heard)})
			}
			next = s.client.Jitter(quarter / 4)
		}
	}
}

// renew writes the record once. Time counts from before the request was sent:
// others cannot have seen the new record earlier.
func (s *Session) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.record.TTL/4)
	defer cancel()
	s.record.Seq++
	sent := s.client.now()
	if err := s.client.store.Renew(ctx, s.group, s.record); err != nil {
		return err
	}
	if s.ctx.Err() != nil && errors.Is(context.Cause(s.ctx), ErrLost) {
		return ErrLost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = sent
	s.alarm.Reset(s.holds() - s.client.now().Sub(sent))
	return nil
}

// Leave ends the renewals and the session's context, and removes the record, by
// which everything that still names the session becomes free at once.
func (s *Session) Leave(ctx context.Context) error {
	s.stop()
	<-s.done
	s.mu.Lock()
	s.alarm.Stop()
	s.mu.Unlock()
	s.lose(context.Canceled)
	err := s.client.Retry(ctx, func(ctx context.Context) error {
		return s.client.store.Remove(ctx, s.group, s.ID(), 0)
	})
	if err != nil {
		return fmt.Errorf("leave %s: %w", s.group, err)
	}
	return nil
}
