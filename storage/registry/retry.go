package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/storage"
)

// operation names what is done, for errors.
type operation struct {
	op, address, subject string
}

// call is a request with all that is needed to send it again.
type call struct {
	operation
	method string
	url    *url.URL
	header http.Header
	scope  scope
	body   payload
	// accept are the statuses besides 2xx that the caller deals with.
	accept []int
	// stay: a redirect to another host is an answer, not to be followed.
	stay bool
	// sound: the body has been checked, so that the registry is wrong who says
	// that its digest does not match.
	sound             bool
	stream, unlimited bool
}

// do sends c until it is answered with a status that the caller accepts, and
// returns that answer, whose body is to be closed. Other answers are errors with
// their class.
func (h *host) do(ctx context.Context, c call) (*http.Response, error) {
	var resp *http.Response
	err := h.persist(ctx, c.operation, func(attempt int) (err error) {
		resp, err = h.try(ctx, c, attempt)
		return err
	})
	return resp, err
}

// persist does what once does, again while that promises anything, and makes its
// last error the operation's.
func (h *host) persist(ctx context.Context, op operation, once func(attempt int) error) error {
	p := h.patience()
	for {
		err := once(p.attempt)
		if err == nil {
			return nil
		}
		if !p.again(ctx, op, err) {
			return op.fail(ctx, err)
		}
	}
}

// try sends c once, authentication apart.
func (h *host) try(ctx context.Context, c call, attempt int) (*http.Response, error) {
	resp, err := h.authorized(ctx, c)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 || slices.Contains(c.accept, resp.StatusCode) {
		return resp, nil
	}
	r := refusalOf(resp)
	r.attempt, r.sound = attempt, c.sound
	r.away = !h.owns(resp.Request.URL) && !sameHost(c.url, resp.Request.URL)
	return nil, r
}

// patience decides whether an operation is tried once more, and waits.
type patience struct {
	h       *host
	attempt int
	waited  time.Duration
}

func (h *host) patience() *patience { return &patience{h: h, attempt: 1} }

// again reports, after the delay that err asks for, whether to try again.
func (p *patience) again(ctx context.Context, op operation, err error) bool {
	o := p.h.o
	d, ok := p.delay(err)
	if !ok || ctx.Err() != nil {
		return false
	}
	o.Logger.Info("registry request is tried again", zap.String("operation", op.op), zap.String("storage", op.address),
		zap.String("subject", op.subject), zap.Int("attempt", p.attempt), zap.Duration("delay", d), zap.String("cause", redactText(err.Error())))
	if !p.sleep(ctx, d, err) {
		return false
	}
	p.attempt++
	p.waited += d
	return true
}

// sleep waits, and keeps others from asking where the registry wants to be left alone.
func (p *patience) sleep(ctx context.Context, d time.Duration, err error) bool {
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusTooManyRequests && r.retryAfter > 0 && !r.token {
		defer p.h.budget.hold()()
	}
	return p.h.o.Sleep(ctx, d) == nil
}

// delay is exponential, from half of it on at random, or what the registry asks for
// where that is longer; false means that trying again is of no use or too expensive.
//
// Were it random from zero on, all attempts could come to lie within a moment in
// which a registry restarts: seen in one of a hundred runs.
func (p *patience) delay(err error) (time.Duration, bool) {
	o := p.h.o
	class := classOf(err)
	passes := errors.Is(class, storage.ErrTransient) || errors.Is(class, storage.ErrRateLimited) || p.attempt == 1 && expired(err)
	if errors.As(err, new(*sourceError)) || !passes {
		return 0, false
	}
	if p.attempt >= o.Retry.Attempts {
		return 0, false
	}
	d := o.Retry.Max
	if shift := p.attempt - 1; shift < 16 {
		d = min(d, o.Retry.Base<<shift)
	}
	d = d/2 + time.Duration(float64(d/2)*o.Jitter())
	var r *refusal
	if errors.As(err, &r) {
		d = max(d, r.retryAfter)
	}
	return d, p.waited+d <= o.Retry.Budget
}

// expired reports whether err may be the refusal of an address that a registry has
// signed for an object storage, and whose time is over: a proxy before the registry
// may have kept it, or the request was slow to come. The registry signs a new one.
func expired(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.away && (r.status == http.StatusForbidden || r.status == http.StatusUnauthorized)
}
