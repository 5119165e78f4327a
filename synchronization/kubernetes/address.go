package kubernetes

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
)

// DefaultNamespace is where ledgers live unless an address says otherwise.
const DefaultNamespace = "cairn-synchronization"

// Scheme begins the addresses of this backend.
const Scheme = "kubernetes"

// Address says which namespace of which cluster.
type Address struct {
	// Namespace holds the ledgers of one scope of trust.
	Namespace string
	// Context is one of the kubeconfig's; "" is the current one.
	Context string
	// Kubeconfig is a file; "" is where kubectl looks, or the pod's own service
	// account when there is none.
	Kubeconfig string
}

// plainNamespace is what a namespace may be called.
var plainNamespace = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ParseAddress reads "kubernetes://NAMESPACE[?context=…&kubeconfig=…]". Without a
// namespace it is [DefaultNamespace].
func ParseAddress(s string) (Address, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("read the address: %w", err)
	}
	if u.Scheme != Scheme || u.Opaque != "" || u.User != nil || u.Port() != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return Address{}, fmt.Errorf("%q: want kubernetes://NAMESPACE[?context=…&kubeconfig=…]", s)
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
		default:
			return fmt.Errorf("%s: %w", key, errUnknownParameter)
		}
	}
	return nil
}

var errUnknownParameter = errors.New("unknown parameter; want context or kubeconfig")

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
	u.RawQuery = query.Encode()
	return u.String()
}
