package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cairnbuild/cairn/storage"
)

// Bounds of what is read of an error's answer, and of what is kept.
const (
	maxErrorBody = 64 << 10
	maxErrorText = 300
)

// refusal is an answer that is not what the request was for.
type refusal struct {
	status        int
	code, message string
	retryAfter    time.Duration
	// token: a token server said it, not the registry.
	token bool
	// attempt counts from 1; in later ones an earlier one may have worked unseen.
	attempt int
	// sound is that of the call.
	sound bool
	// away: another host said it, to which the registry had sent.
	away bool
}

func (r *refusal) Error() string {
	parts := []string{strconv.Itoa(r.status) + " " + http.StatusText(r.status)}
	if r.token {
		parts[0] = "token server: " + parts[0]
	}
	if r.code != "" {
		parts = append(parts, r.code)
	}
	if r.message != "" {
		parts = append(parts, r.message)
	}
	if hint, ok := codeHint(r.code); ok {
		parts = append(parts, hint)
	}
	return strings.Join(parts, ": ")
}

// fault is an error whose class is known where it is made.
type fault struct {
	class error
	text  string
}

func (f *fault) Error() string { return f.text }

func corrupt(format string, args ...any) error {
	return &fault{storage.ErrCorrupt, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &fault{storage.ErrInvalid, fmt.Sprintf(format, args...)}
}

// sourceError is a failure to read what is to be sent: trying again would not mend it.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read what is to be sent: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// codeHint explains those codes of registries that mislead people.
func codeHint(code string) (string, bool) {
	switch code {
	case "MANIFEST_BLOB_UNKNOWN":
		return "the registry lacks a blob or manifest that this one refers to", true
	case "NAME_INVALID":
		return "the registry does not allow such a repository name", true
	}
	return "", false
}

// invalidCode reports whether the code says that the request itself was wrong,
// whatever the status is: some registries answer 404 to a manifest that names a
// missing blob.
func invalidCode(code string) bool {
	return slices.Contains([]string{
		"MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNVERIFIED", "DIGEST_INVALID", "SIZE_INVALID", "NAME_INVALID", "TAG_INVALID",
	}, code)
}

// classOf gives err its class: the one place where this is decided.
func classOf(err error) error {
	var f *fault
	var r *refusal
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &f):
		return f.class
	case errors.As(err, &r):
		return r.class()
	case errors.As(err, &cert), errors.Is(err, errUnsafeURL):
		return storage.ErrInvalid
	}
	// The package storage has classes of its own for what it verifies.
	for _, class := range []error{storage.ErrCorrupt, storage.ErrInvalid, storage.ErrTooLarge} {
		if errors.Is(err, class) {
			return class
		}
	}
	return storage.ErrTransient
}

func (r *refusal) class() error {
	switch s := r.status; {
	case s == http.StatusTooManyRequests:
		return storage.ErrRateLimited
	case s == http.StatusInsufficientStorage:
		return storage.ErrFull
	case s == http.StatusNotImplemented:
		return storage.ErrUnsupported
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooEarly:
		return storage.ErrTransient
	case r.token, s == http.StatusUnauthorized:
		return storage.ErrUnauthorized
	case r.code == "DIGEST_INVALID" && r.sound:
		// docker-registry 2.8 says so of a correct manifest while another upload of
		// one of its blobs is being completed.
		return storage.ErrTransient
	case invalidCode(r.code):
		return storage.ErrInvalid
	case s == http.StatusForbidden:
		return storage.ErrDenied
	case s == http.StatusNotFound, s == http.StatusGone:
		return storage.ErrNotFound
	case s == http.StatusMethodNotAllowed:
		return storage.ErrUnsupported
	case s == http.StatusRequestEntityTooLarge:
		return storage.ErrTooLarge
	}
	return storage.ErrInvalid
}

// fail makes err the error of an operation. A context that has ended wins over
// every class: nothing is known about the storage then.
func (o operation) fail(ctx context.Context, err error) error {
	var source *sourceError
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), ctx.Err()):
		return fmt.Errorf("%s %s: %w", o.op, o.address, context.Cause(ctx))
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: %w: %w", o.op, o.address, ctx.Err(), context.Cause(ctx))
	case errors.As(err, &source):
		// It says nothing about this storage; its class is that of where it came from.
		return fmt.Errorf("%s %s %s: %w", o.op, o.address, o.subject, err)
	case errors.As(err, new(*storage.Error)):
		return err
	}
	class := classOf(err)
	text := strings.TrimPrefix(redactText(err.Error()), class.Error()+": ")
	e := &storage.Error{Op: o.op, Storage: o.address, Subject: o.subject, Class: class, Err: &redacted{text, err}}
	var r *refusal
	if errors.As(err, &r) {
		e.RetryAfter = r.retryAfter
	}
	return e
}

// statusOf returns the status with which a registry refused, or 0.
func statusOf(err error) int {
	var r *refusal
	if errors.As(err, &r) && !r.token {
		return r.status
	}
	return 0
}

// refusalOf reads resp, whose body it closes.
func refusalOf(resp *http.Response) *refusal {
	defer resp.Body.Close()
	r := &refusal{status: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
	// What cannot be read leaves the status, which says the most.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	r.code, r.message = parseErrorBody(resp.Header.Get("Content-Type"), body)
	return r
}

// parseErrorBody returns the first error of a registry's answer, cut and without
// control characters, so that it can stand in a terminal.
func parseErrorBody(contentType string, body []byte) (code, message string) {
	var v struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		// Token servers answer in the form of OAuth, or with details alone.
		Error       any    `json:"error"`
		Description string `json:"error_description"`
		Details     string `json:"details"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		if strings.HasPrefix(contentType, "text/plain") {
			return "", tidy(string(body))
		}
		return "", ""
	}
	if len(v.Errors) > 0 {
		return tidy(v.Errors[0].Code), tidy(v.Errors[0].Message)
	}
	if s, ok := v.Error.(string); ok {
		code = s
	}
	return tidy(code), tidy(v.Description + v.Details)
}

// tidy makes foreign text harmless and short.
func tidy(s string) string {
	if len(s) > 4*maxErrorText {
		s = s[:4*maxErrorText]
	}
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	s = redactText(strings.Join(strings.Fields(s), " "))
	if runes := []rune(s); len(runes) > maxErrorText {
		s = string(runes[:maxErrorText]) + "…"
	}
	return s
}

// retryAfter reads the header in both of its forms. A date is compared with the
// Date of the same answer: the clocks of two machines tell nothing about each other.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return max(at.Sub(date), 0)
}

// redacted is an error whose text holds no credentials and no signatures.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }

var (
	urlUser  = regexp.MustCompile(`://[^/\s"'@]*@`)
	urlQuery = regexp.MustCompile(`(https?://[^\s"'?]*)\?[^\s"']*`)
)

// redactText removes user information and queries from the URLs in s.
func redactText(s string) string {
	return urlQuery.ReplaceAllString(urlUser.ReplaceAllString(s, "://REDACTED@"), "$1?REDACTED")
}
