package engine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Schemes of an [Address].
const (
	// SchemeUnix is unix://PATH, a socket of this machine.
	SchemeUnix = "unix"
	// SchemeTCP is tcp://HOST:PORT?cert=FILE&key=FILE[&ca=FILE][&servername=NAME],
	// without parameters only on loopback.
	SchemeTCP = "tcp"
	// SchemePod is kube-pod://NAMESPACE/POD[?container=…&program=…&context=…&kubeconfig=…].
	SchemePod = "kube-pod"
	// SchemeDocker is docker-container://NAME.
	SchemeDocker = "docker-container"
)

// Address is where a BuildKit is reached. There is no secret in it: keys are
// named by their files.
type Address struct {
	// Scheme is one of the constants of this package.
	Scheme string
	// Target is what the scheme leads to: a path, HOST:PORT or a container's name;
	// empty for a pod.
	Target string
	// TLS is set where the connection is encrypted.
	TLS *TLS
	// Pod is set for [SchemePod].
	Pod *Pod
}

// TLS names what authenticates both ends of a connection.
type TLS struct {
	// Cert and Key are the PEM files that this end shows.
	Cert, Key string
	// CA is the PEM file that the other end is checked with; empty for the system's authorities.
	CA string
	// ServerName replaces the name in the address where that is compared with the certificate.
	ServerName string
}

// Pod names a pod of a Kubernetes cluster.
type Pod struct {
	Namespace, Name string
	// Container may be empty where the pod has one only, or a default.
	Container string
	// Program is what is run there to reach the engine: "buildctl" or "cairnd".
	Program string
	// Context and Kubeconfig may be empty, as with kubectl.
	Context, Kubeconfig string
}

// ParseAddress reads an address and refuses one whose names could be taken for
// something else by what they are handed to, or that would carry a build in the
// clear to another machine.
func ParseAddress(s string) (Address, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	if scheme == SchemeUnix && rest != "" {
		if !filepath.IsAbs(rest) {
			return Address{}, fmt.Errorf("%s: the path of a socket begins at the root", s)
		}
		return Address{Scheme: scheme, Target: rest}, nil
	}
	u, err := url.Parse(s)
	if err != nil || rest == "" {
		// The error of the parser would show what may be a password.
		return Address{}, errors.New("it is no address of a BuildKit")
	}
	if u.User != nil || u.Fragment != "" {
		return Address{}, fmt.Errorf("%s://%s: an address has neither user nor fragment", u.Scheme, u.Host)
	}
	switch scheme {
	case SchemeTCP:
		return parseTCP(u)
	case SchemePod:
		return parsePod(u)
	case SchemeDocker:
		return parseContainer(u)
	default:
		return Address{}, fmt.Errorf("%s: the scheme %q is not known", s, scheme)
	}
}

func parseTCP(u *url.URL) (Address, error) {
	q, err := parameters(u, "ca", "cert", "key", "servername")
	if err != nil {
		return Address{}, err
	}
	if u.Hostname() == "" || u.Port() == "" || u.Path != "" {
		return Address{}, fmt.Errorf("%s: it has to be HOST:PORT", u)
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return Address{}, fmt.Errorf("%s: %s is no port: want a number up to 65535", u, u.Port())
	}
	a := Address{Scheme: SchemeTCP, Target: u.Host}
	if len(q) > 0 {
		a.TLS = &TLS{CA: q["ca"], Cert: q["cert"], Key: q["key"], ServerName: q["servername"]}
		if a.TLS.Cert == "" || a.TLS.Key == "" {
			return Address{}, fmt.Errorf("%s: TLS needs cert and key: an engine that does not ask who builds is open to everybody", u)
		}
		return a, nil
	}
	if host := u.Hostname(); host != "localhost" && !isLoopback(host) {
		return Address{}, fmt.Errorf("%s: a connection to another machine needs TLS; plain TCP is for loopback addresses", u)
	}
	return a, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Names as Kubernetes and Docker have them. None begins with "-", which a program
// would take for an option.
var (
	kubeLabel     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	kubeSubdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	dockerName    = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)
)

func parsePod(u *url.URL) (Address, error) {
	q, err := parameters(u, "container", "program", "context", "kubeconfig")
	if err != nil {
		return Address{}, err
	}
	p := &Pod{
		Namespace: u.Host, Name: strings.TrimPrefix(u.Path, "/"),
		Container: q["container"], Program: cmp.Or(q["program"], "buildctl"), Context: q["context"], Kubeconfig: q["kubeconfig"],
	}
	switch {
	case !kubeLabel.MatchString(p.Namespace):
		return Address{}, fmt.Errorf("%s: %q is no name of a namespace", u, p.Namespace)
	case !kubeSubdomain.MatchString(p.Name):
		return Address{}, fmt.Errorf("%s: %q is no name of a pod", u, p.Name)
	case p.Container != "" && !kubeLabel.MatchString(p.Container):
		return Address{}, fmt.Errorf("%s: %q is no name of a container", u, p.Container)
	case p.Program != "buildctl" && p.Program != "cairnd":
		return Address{}, fmt.Errorf("%s: the program %q is not known: want buildctl or cairnd", u, p.Program)
	}
	return Address{Scheme: SchemePod, Pod: p}, nil
}

func parseContainer(u *url.URL) (Address, error) {
	if _, err := parameters(u); err != nil {
		return Address{}, err
	}
	if !dockerName.MatchString(u.Host) || u.Path != "" {
		return Address{}, fmt.Errorf("%s: %q is no name of a container", u, u.Host+u.Path)
	}
	return Address{Scheme: SchemeDocker, Target: u.Host}, nil
}

// parameters returns the query, in which only the given names may stand, each once.
func parameters(u *url.URL, names ...string) (map[string]string, error) {
	all, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%s://%s: the parameters cannot be read: %w", u.Scheme, u.Host, err)
	}
	out := make(map[string]string, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch v := all[name]; {
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("%s: the parameter %q is not known", u, name)
		case len(v) != 1 || v[0] == "":
			return nil, fmt.Errorf("%s: the parameter %q has to be given once", u, name)
		default:
			out[name] = v[0]
		}
	}
	return out, nil
}
