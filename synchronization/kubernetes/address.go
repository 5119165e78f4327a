package kubernetes

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// DefaultNamespace is where ledgers live unless an address says otherwise.
const DefaultNamespace = "cairn-synchronization"

// Scheme begins the addresses of this backend.
const Scheme = "kubernetes"

// Bounds of an address's TTL. A session is renewed four times within its TTL, and
// a renewal may take a quarter of it: below the least one, an API server that is
// merely busy would cost sessions.
const (
	MinTTL = 2 * time.Second
	MaxTTL = 10 * time.Minute
)

// Address says which namespace of which cluster.
type Address struct {
	// Namespace holds the ledgers of one scope of trust.
	Namespace string
	// Context is one of the kubeconfig's; "" is the current one.
	Context string
	// Kubeconfig is a file; "" is where kubectl looks, or the pod's own service
	// account when there is none.
	Kubeconfig string
	// TTL is for how long this runner's session may go without a renewal before
	// others take it for dead; 0 is the ledger's default. A shorter one has the
	// stages of a runner that died taken over sooner, for more renewals of its
	// Lease, four within each TTL. A session's record carries its TTL, so runners
	// with different ones get along.
	TTL time.Duration
}

// plainNamespace is what a namespace may be called.
var plainNamespace = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// form is what addresses look like.
const form = "kubernetes://NAMESPACE[?context=NAME&kubeconfig=FILE&ttl=DURATION]"

// ParseAddress reads "kubernetes://NAMESPACE[?context=…&kubeconfig=…&ttl=…]".
// Without a namespace it is [DefaultNamespace]. The TTL is of whole seconds, from
// [MinTTL] to [MaxTTL].
func ParseAddress(s string) (Address, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("read the address: %w", err)
	}
	if u.Scheme != Scheme || u.Opaque != "" || u.User != nil || u.Port() != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return Address{}, fmt.Errorf("%q: want %s", s, form)
	}
	a := Address{Namespace: u.Hostname()}
	if a.Namespace == "" {
		a.Namespace = DefaultNamespace
	}
	if !plainNamespace.MatchString(a.Namespace) {
		return Address{}, fmt.Errorf("%q cannot be the name of a namespace", a.Namespace)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w", s, err)
	}
	if err := a.setAll(query); err != nil {
		return Address{}, err
	}
	return a, nil
}

func (a *Address) setAll(query url.Values) error {
	for key, values := range query {
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("%s: want one value", key)
		}
		switch key {
		case "context":
			a.Context = values[0]
		case "kubeconfig":
			a.Kubeconfig = values[0]
		case "ttl":
			if err := a.setTTL(values[0]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: %w", key, errUnknownParameter)
		}
	}
	return nil
}

// setTTL takes whole seconds, since that is what a Lease holds.
func (a *Address) setTTL(s string) error {
	d, err := time.ParseDuration(s)
	if err == nil && (d < MinTTL || d > MaxTTL || d%time.Second != 0) {
		err = fmt.Errorf("%q is not of whole seconds from %s to %s", s, MinTTL, MaxTTL)
	}
	if err != nil {
		return fmt.Errorf("ttl: %w", err)
	}
	a.TTL = d
	return nil
}

var errUnknownParameter = errors.New("unknown parameter; want context, kubeconfig or ttl")

// String returns the address as [ParseAddress] reads it.
func (a Address) String() string {
	u := url.URL{Scheme: Scheme, Host: a.Namespace}
	query := url.Values{}
	if a.Context != "" {
		query.Set("context", a.Context)
	}
	if a.Kubeconfig != "" {
		query.Set("kubeconfig", a.Kubeconfig)
	}
	if a.TTL != 0 {
		query.Set("ttl", a.TTL.String())
	}
	u.RawQuery = query.Encode()
	return u.String()
}
