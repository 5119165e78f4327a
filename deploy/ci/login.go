package ci

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxDockerConfig bounds a Docker configuration that is read, in bytes.
const MaxDockerConfig = 1 << 20

// Login is what a registry is shown. It is not meant to be printed: formatting it
// leaves the password out.
type Login struct {
	// Registry is HOST[:PORT].
	Registry string
	User     string
	password string
}

// String implements [fmt.Stringer].
func (l Login) String() string { return l.User + "@" + l.Registry }

// GoString implements [fmt.GoStringer].
func (l Login) GoString() string { return "ci.Login{" + l.String() + "}" }

// login returns the one for the registry of a place, nil where there is none.
func (f found) login(r *reader, q Request, p place) (*Login, error) {
	address := p.storage
	if address == local || address == "" {
		address = p.secondary
	}
	if address == "" || address == local {
		return nil, nil
	}
	l := &Login{Registry: registryOf(address), User: q.User, password: q.Password}
	if l.password == "" && f.registry.password != "" && l.Registry == registryOf(f.registry.image) {
		l.password = r.Getenv(f.registry.password)
		if l.User == "" {
			l.User = r.Getenv(f.registry.user)
		}
		if l.password == "" {
			r.note("%s is not in the environment: there is no login for the registry", f.registry.password)
		}
	}
	if l.password == "" {
		return nil, nil
	}
	if l.User == "" || strings.ContainsAny(l.User, ":\x00\r\n") {
		return nil, &ValueError{"--registry-user", "there is a password and no name to it, or one with a colon", "name the user that the password belongs to"}
	}
	return l, nil
}

// registryOf returns the host of a repository's address; an address without one is
// of Docker Hub.
func registryOf(address string) string {
	host, _, ok := strings.Cut(address, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" || host == "docker.io" || host == "index.docker.io" {
		return "docker.io"
	}
	return host
}

// key returns what the registry is called in Docker's configuration.
func (l Login) key() string {
	if l.Registry == "docker.io" {
		return "https://index.docker.io/v1/"
	}
	return l.Registry
}

// kept are the parts of a Docker configuration that are about registries. Others,
// such as a context, name files beside it, which do not come along.
func kept() []string {
	return []string{"auths", "credHelpers", "credsStore", "HttpHeaders", "proxies"}
}

// Config returns existing, a Docker configuration or nothing, with the login in it.
func (l Login) Config(existing []byte) ([]byte, error) {
	all := map[string]json.RawMessage{}
	if len(existing) > 0 {
		if err := json.Unmarshal(existing, &all); err != nil {
			return nil, fmt.Errorf("read the Docker configuration: %w", errNotJSON)
		}
	}
	out := map[string]any{}
	for _, key := range kept() {
		if v, ok := all[key]; ok {
			out[key] = v
		}
	}
	auths, err := entries(all, "auths")
	if err != nil {
		return nil, err
	}
	helpers, err := entries(all, "credHelpers")
	if err != nil {
		return nil, err
	}
	entry, err := json.Marshal(map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(l.User + ":" + l.password))})
	if err != nil {
		return nil, err
	}
	auths[l.key()] = entry
	out["auths"] = auths
	if out["credsStore"] != nil || len(helpers) > 0 {
		helpers[l.key()] = json.RawMessage(`""`) // else a helper is asked in place of auths
		out["credHelpers"] = helpers
	}
	return json.Marshal(out)
}

func entries(all map[string]json.RawMessage, key string) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if v, ok := all[key]; ok {
		if err := json.Unmarshal(v, &out); err != nil {
			return nil, fmt.Errorf("read %s of the Docker configuration: %w", key, errNotJSON)
		}
	}
	if out == nil { // it was null
		out = map[string]json.RawMessage{}
	}
	return out, nil
}

// errNotJSON takes the place of a decoder's error, which quotes what it read.
var errNotJSON = errors.New("it is not JSON of the form that Docker writes")
