package registry

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// ErrAddress is wrapped by all errors about the form of an address.
var ErrAddress = errors.New("no repository address")

// parseAddress reads "host[:port]/path"; names without a host are Docker Hub's.
func parseAddress(s string) (name.Repository, error) {
	if why := addressFault(s); why != "" {
		return name.Repository{}, fmt.Errorf("%w: %q: %s", ErrAddress, redactAddress(s), why)
	}
	repo, err := name.NewRepository(s)
	if err != nil {
		return name.Repository{}, fmt.Errorf("%w: %q: %w", ErrAddress, redactAddress(s), err)
	}
	return repo, nil
}

// addressFault names the usual mistakes in words that say what to write instead.
func addressFault(s string) string {
	last := s[strings.LastIndex(s, "/")+1:]
	switch {
	case s == "":
		return "it is empty; write host[:port]/path"
	case strings.ContainsAny(s, " \t\r\n"):
		return "it holds white space"
	case strings.Contains(s, "://"):
		return "leave out the scheme; write host[:port]/path"
	case strings.Contains(s, "@"):
		return "leave out the digest (and any user name); write host[:port]/path"
	case !strings.Contains(s, "/") && strings.Contains(s, ":"):
		return "the path of the repository is missing; write host[:port]/path"
	case strings.HasSuffix(s, "/"):
		return "the path ends with a slash"
	case strings.Contains(s, "/") && strings.Contains(last, ":"):
		return "leave out the tag; write host[:port]/path"
	case strings.ToLower(pathOf(s)) != pathOf(s):
		return "the path of a repository is lower-case"
	}
	return ""
}

// loginBeforeHost is what people write who expect addresses to carry credentials.
var loginBeforeHost = regexp.MustCompile(`^[^/@]*@`)

// redactAddress is redactText for addresses, which have no scheme.
func redactAddress(s string) string {
	return loginBeforeHost.ReplaceAllString(redactText(s), "REDACTED@")
}

// pathOf returns the part after the host, where there is one.
func pathOf(s string) string {
	host, path, ok := strings.Cut(s, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return path
	}
	return s
}

// loopback reports whether host, with or without a port, never leaves this
// machine. Plain HTTP is spoken with such hosts only.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// sameHost reports whether both addresses are the same server for credentials.
func sameHost(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

var errUnsafeURL = errors.New("the registry sends to an address that is not safe to follow")

// follow resolves an address that the answer to a request to base named. It
// never goes from HTTPS to HTTP, and to plain HTTP on this machine only.
func follow(base *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, fmt.Errorf("%w: it is empty", errUnsafeURL)
	}
	ref, err := url.Parse(location)
	if err != nil {
		// The parser's error quotes the address, which may hold a signature.
		return nil, fmt.Errorf("%w: it cannot be parsed", errUnsafeURL)
	}
	u := base.ResolveReference(ref)
	if err := safeFrom(base, u); err != nil {
		return nil, err
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}

func safeFrom(base, u *url.URL) error {
	switch {
	case u.Host == "":
		return fmt.Errorf("%w: no host", errUnsafeURL)
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("%w: scheme %q", errUnsafeURL, u.Scheme)
	case base.Scheme != "http":
		return fmt.Errorf("%w: from https down to http://%s", errUnsafeURL, u.Host)
	case !loopback(u.Host):
		return fmt.Errorf("%w: plain http://%s", errUnsafeURL, u.Host)
	}
	return nil
}
