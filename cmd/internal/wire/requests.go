package wire

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/storage/registry"
)

// requestIDs returns what makes ids of requests: one random part for all of them,
// which finds a whole run in the log of a server, and a number.
func (h Host) requestIDs() func() string {
	run := sync.OnceValue(func() string {
		var b [6]byte
		if _, err := io.ReadFull(h.Rand, b[:]); err != nil {
			return "" // ids help people to search; a build does not need them
		}
		return hex.EncodeToString(b[:])
	})
	var n atomic.Int64
	return func() string {
		if run() == "" {
			return ""
		}
		return fmt.Sprintf("%s-%d", run(), n.Add(1))
	}
}

// logExchange tells of a request to a registry. Neither queries, which may be
// signed, nor headers are in an exchange.
func logExchange(log *zap.Logger, e registry.Exchange) {
	if log == nil || !log.Core().Enabled(zap.DebugLevel) {
		return
	}
	log.Debug("registry request", zap.String("request_id", e.ID), zap.String("kind", string(e.Kind)),
		zap.String("method", e.Method), zap.String("host", e.Host), zap.String("path", e.Path), zap.Int("status", e.Status),
		zap.Int64("sent", e.Sent), zap.Int64("received", e.Received), zap.Duration("took", e.Took))
}

// headerAuditID names a request in the audit log of a Kubernetes API server.
const headerAuditID = "Audit-Id"

// audited gives each request to a cluster an id and tells of it.
type audited struct {
	next http.RoundTripper
	id   func() string
	now  func() time.Time
	log  *zap.Logger
}

// RoundTrip implements [http.RoundTripper].
func (a *audited) RoundTrip(r *http.Request) (*http.Response, error) {
	id := a.id()
	r = r.Clone(r.Context())
	if id != "" {
		r.Header.Set(headerAuditID, id)
	}
	began := a.now()
	resp, err := a.next.RoundTrip(r)
	if a.log == nil || !a.log.Core().Enabled(zap.DebugLevel) {
		return resp, err
	}
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	a.log.Debug("ledger request", zap.String("request_id", id), zap.String("method", r.Method), zap.String("host", r.URL.Host),
		zap.String("path", r.URL.Path), zap.Int("status", status), zap.Duration("took", a.now().Sub(began)))
	return resp, err
}

// WrappedRoundTripper lets client-go reach the transport below.
func (a *audited) WrappedRoundTripper() http.RoundTripper { return a.next }
