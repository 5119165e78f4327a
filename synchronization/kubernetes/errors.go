package kubernetes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/cairnbuild/cairn/lock"
)

// Errors that only this package tells apart.
var (
	errNotFound = errors.New("not found")
	errExists   = errors.New("already exists")
	errTest     = errors.New("a test of the patch failed")
)

// Error is a request that failed. It wraps a class of package lock where it
// belongs to one; without a class it is permanent.
type Error struct {
	// Verb and Resource are what a role has to allow: "patch", "configmaps".
	Verb, Resource string
	// Namespace and Name are what it was about; Name may be empty.
	Namespace, Name string
	// Code is the HTTP status, 0 where there was no answer.
	Code int
	// Message is what the API server said.
	Message string
	// Err is the class, or the cause where there was no answer.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	what := e.Verb + " " + e.Resource
	if e.Name != "" {
		what += " " + e.Name
	}
	what += " in namespace " + e.Namespace
	if e.Code != 0 {
		what += fmt.Sprintf(": %d %s", e.Code, http.StatusText(e.Code))
	}
	if e.Message != "" {
		what += ": " + e.Message
	}
	if e.Err != nil {
		what += ": " + e.Err.Error()
	}
	return what
}

// Unwrap returns the class or the cause.
func (e *Error) Unwrap() error { return e.Err }

// DeniedError says that the API server refuses these credentials what the ledger
// needs (401, 403). Nothing was done.
type DeniedError struct {
	// Request is what was refused; it names verb, resource and namespace.
	Request *Error
}

// Error implements error.
func (e *DeniedError) Error() string { return "the cluster refuses: " + e.Request.Error() }

// Unwrap returns the refused request.
func (e *DeniedError) Unwrap() error { return e.Request }

// Hint says what to do.
func (e *DeniedError) Hint() string {
	if e.Request.Code == http.StatusUnauthorized {
		return "the cluster does not accept these credentials: check the context of the kubeconfig"
	}
	return fmt.Sprintf("have an administrator apply what \"cairn synchronization manifest --namespace %s\" prints", e.Request.Namespace)
}

// FullError says that a shard, or a request, would become larger than the API
// server takes. Nothing was done.
type FullError struct {
	// Shard is the ConfigMap's name.
	Shard string
	// Size is what was too large, in bytes, 0 where only the server knows it.
	Size int
	// Limit is the most that fits.
	Limit int
}

// Error implements error.
func (e *FullError) Error() string {
	if e.Size == 0 {
		return fmt.Sprintf("%s is full: it holds at most %d bytes", e.Shard, e.Limit)
	}
	return fmt.Sprintf("%s is full: it would need %d bytes and holds at most %d", e.Shard, e.Size, e.Limit)
}

// Unwrap returns the class.
func (*FullError) Unwrap() error { return lock.ErrFull }

// Hint says what to do.
func (*FullError) Hint() string {
	return "very many stages are in flight at once: entries of finished ones go after a while, \"cairn locks ls\" shows them"
}

// status is what the API server answers in place of an object.
type status struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Code    int    `json:"code"`
	Details struct {
		Kind   string `json:"kind"`
		Causes []struct {
			Reason string `json:"reason"`
			Field  string `json:"field"`
		} `json:"causes"`
	} `json:"details"`
}

// tooLong reports whether the object was refused for its size.
func (s status) tooLong() bool {
	for _, c := range s.Details.Causes {
		if c.Reason == "FieldValueTooLong" {
			return true
		}
	}
	return false
}

// refused returns the error of an answer that is not a success.
func (c call) refused(namespace string, code int, s status) error {
	e := &Error{Verb: c.verb, Resource: c.resource, Namespace: namespace, Name: c.name, Code: code, Message: s.Message}
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return &DeniedError{Request: e}
	case code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity && s.tooLong():
		return &FullError{Shard: c.name, Limit: maxData}
	case code == http.StatusNotFound:
		e.Err = errNotFound
	case code == http.StatusConflict && s.Reason == "AlreadyExists":
		e.Err = errExists
	case code == http.StatusConflict:
		e.Err = lock.ErrUnavailable // another write came between, nothing was done
	case code == http.StatusUnprocessableEntity && len(s.Details.Causes) == 0:
		e.Err = errTest
	case code == http.StatusTooManyRequests, code >= 500:
		// Also a server that is overloaded may have passed the write on.
		e.Err = c.unknown()
	}
	return e
}

// unanswered returns the error of a request without an answer.
func (c call) unanswered(namespace string, err error) error {
	e := &Error{Verb: c.verb, Resource: c.resource, Namespace: namespace, Name: c.name}
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		e.Err = err // it does not get better by asking again
	case errors.As(err, &dial) && dial.Op == "dial":
		e.Err = fmt.Errorf("%w: %w", lock.ErrUnavailable, err)
	default:
		e.Err = fmt.Errorf("%w: %w", c.unknown(), err)
	}
	return e
}

// unknown is the class of a request whose outcome is unknown.
func (c call) unknown() error {
	if c.writes() {
		return lock.ErrAmbiguous
	}
	return lock.ErrUnavailable
}

// ended returns the error of a request that is not sent because ctx has ended.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", lock.ErrUnavailable, context.Cause(ctx))
}
