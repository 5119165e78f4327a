package lock

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Defaults of [Options].
const (
	DefaultRequest = 10 * time.Second
	DefaultBudget  = time.Minute
)

// Bounds of the pause between two attempts, of which a random part is waited.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = 2 * time.Second
)

// idBytes is the length of ids and nonces: long enough never to meet again.
const idBytes = 16

// Options are what a [Client] needs besides its store.
type Options struct {
	// Now is this process's clock, with a monotonic reading. Required.
	Now func() time.Time
	// Rand gives ids, nonces and jitter. Required.
	Rand io.Reader
	// Request bounds one request; 0 means [DefaultRequest].
	Request time.Duration
	// Budget bounds how long an operation is retried while the store fails; 0
	// means [DefaultBudget].
	Budget time.Duration
	// Outage is told when an operation or a session's renewal meets a store that
	// does not answer, before each further attempt, and when it was answered after
	// all. Its calls come from many goroutines, and it returns at once. It may be nil.
	Outage func(Outage)
}

// Outage is what is known of a store that does not answer.
type Outage struct {
	// Err is how the last attempt failed, nil when the store answers again.
	Err error
	// Silent is for how long the operation has had no answer, its current attempt
	// included: a server that hangs is not noticed sooner than an attempt ends.
	Silent time.Duration
	// Left is for how long the operation will be tried further; 0 for a renewal,
	// which nobody waits for.
	Left time.Duration
}

// Client is one process's access to a store. It is safe for concurrent use. Its
// user closes it.
type Client struct {
	store   Store
	now     func() time.Time
	dice    dice
	request time.Duration
	budget  time.Duration
	outage  func(Outage)

	// life ends with Close; requests for several callers at once run under it.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	pace  *pacer
	clock *shared[time.Time]

	mu      sync.Mutex
	queues  map[string]*queue
	readers map[string]*shared[Snapshot]
	last    map[string]Snapshot
}

// NewClient returns a client of the store. The values of ctx, not its end, are
// seen by the store.
func NewClient(ctx context.Context, store Store, o Options) *Client {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{
		store:   store,
		now:     o.Now,
		dice:    dice{r: o.Rand},
		request: cmp.Or(o.Request, DefaultRequest),
		budget:  cmp.Or(o.Budget, DefaultBudget),
		outage:  o.Outage,
		life:    life,
		end:     end,
		pace:    newPacer(),
		queues:  map[string]*queue{},
		readers: map[string]*shared[Snapshot]{},
		last:    map[string]Snapshot{},
	}
	c.clock = &shared[time.Time]{c: c, do: store.Now}
	return c
}

// Close ends the requests under way and waits for them.
func (c *Client) Close() {
	c.end()
	c.work.Wait()
}

// Nonce returns a string that was never returned before, anywhere.
func (c *Client) Nonce() (string, error) { return c.dice.id() }

// Jitter returns a random duration below most.
func (c *Client) Jitter(most time.Duration) time.Duration { return c.dice.below(most) }

// Retry runs do, a request that may be repeated, until it succeeds, fails for
// good, or the budget is used up, which is [ErrUnavailable]. Each attempt's
// context has the deadline of one request.
func (c *Client) Retry(ctx context.Context, do func(context.Context) error) error {
	for a := c.attempts(); ; {
		err := c.once(ctx, do)
		if err == nil || !retryable(err) {
			a.answered()
			return err
		}
		if err := a.pause(ctx, err); err != nil {
			return err
		}
	}
}

// once runs do under the deadline of a request.
func (c *Client) once(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.request)
	defer cancel()
	return do(ctx)
}

// retryable reports whether a request that changes nothing, or may be repeated,
// is worth another attempt. An ended context is: when it is the caller's, the
// pause says so.
func retryable(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrAmbiguous) || interrupted(err)
}

func interrupted(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// attempts counts the attempts of one operation against the budget.
type attempts struct {
	c     *Client
	began time.Time
	limit time.Duration
	// heard is when the store answered last, or the operation began.
	heard time.Time
	// silent: the store did not answer the last attempt.
	silent bool
}

func (c *Client) attempts() *attempts {
	now := c.now()
	return &attempts{c: c, began: now, heard: now, limit: firstPause}
}

// pause waits a random while, longer from time to time so that many clients do
// not keep step. It fails when the budget is used up or ctx ends.
func (a *attempts) pause(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	left := a.c.budget - a.c.now().Sub(a.began)
	if left <= 0 {
		return a.c.exhausted(cause)
	}
	a.unanswered(cause, left)
	return sleep(ctx, a.next())
}

// next returns how long the next pause is.
func (a *attempts) next() time.Duration {
	d := a.c.Jitter(a.limit)
	a.limit = min(2*a.limit, maxPause)
	return d
}

// exhausted is the error of an operation whose budget is used up.
func (c *Client) exhausted(cause error) error {
	return fmt.Errorf("%w for %s: %w", ErrUnavailable, c.budget, cause)
}

// unanswered tells of a store that did not answer; one that refused did.
func (a *attempts) unanswered(err error, left time.Duration) {
	if errors.Is(err, ErrConflict) {
		a.answered()
		return
	}
	a.silent = true
	a.c.tell(Outage{Err: err, Silent: a.c.now().Sub(a.heard), Left: left})
}

// answered tells that a store which had not answered does so again.
func (a *attempts) answered() {
	if a.silent {
		a.c.tell(Outage{})
	}
	a.silent, a.heard = false, a.c.now()
}

func (c *Client) tell(o Outage) {
	if c.outage != nil {
		c.outage(o)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dice makes a reader of random bytes safe for concurrent use.
type dice struct {
	mu sync.Mutex
	r  io.Reader
}

func (d *dice) read(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := io.ReadFull(d.r, b); err != nil {
		return fmt.Errorf("read random bytes: %w", err)
	}
	return nil
}

func (d *dice) id() (string, error) {
	var b [idBytes]byte
	if err := d.read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// below returns a random duration below most, and most itself where there are
// no random bytes: waiting too long is the harmless mistake.
func (d *dice) below(most time.Duration) time.Duration {
	var b [8]byte
	if most <= 0 {
		return 0
	}
	if d.read(b[:]) != nil {
		return most
	}
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(most))
}
