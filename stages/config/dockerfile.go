package config

import (
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	targetPattern = `^[A-Za-z][A-Za-z0-9_.-]*$`
	hostLine      = `^[A-Za-z0-9_.-]+:[0-9A-Fa-f.:]+$`
)

var targetName = regexp.MustCompile(targetPattern)

// dockerfileFields are the keys of an image that a Dockerfile makes.
func dockerfileFields() []fieldOf[imageDoc] {
	type d = imageDoc
	return []fieldOf[d]{
		field(keyInfo{name: "dockerfile", doc: "Dockerfile that makes the whole image, relative to the configuration file; in a werf.yaml, to context. Keys that describe an image otherwise are not allowed beside it."},
			inTree(), func(t *d, v string, n *yaml.Node) { t.docker.Path = v }),
		field(keyInfo{name: "context", doc: "Directory that COPY and ADD take files from, relative to the configuration file. Of it only the files that the used instructions can take are part of the image's identity.", otherwise: "the Dockerfile's directory; in a werf.yaml, that of the configuration file"},
			inTree(), func(t *d, v string, _ *yaml.Node) { t.docker.Context = v }),
		field(keyInfo{name: "target", doc: "Stage of the Dockerfile to build.", otherwise: "the last one"},
			matching(text(), targetName, "name of a stage", "letters, digits and _ . -, beginning with a letter"), func(t *d, v string, _ *yaml.Node) { t.docker.Target = v }),
		field(keyInfo{name: "args", doc: "Values of the Dockerfile's ARGs. BUILDPLATFORM is the image's first platform unless it is given here; a name that no ARG declares is a warning."},
			variables(), func(t *d, v map[string]string, _ *yaml.Node) { t.docker.Args = v }),
		field(keyInfo{name: "addHost", doc: "Lines for the hosts file of RUN, as NAME:ADDRESS."},
			oneOrMany(hostAddress(), "a line such as db:10.0.0.1, or a list of such"), func(t *d, v []string, _ *yaml.Node) { t.docker.AddHosts = v }),
		field(keyInfo{name: "network", doc: "Network of RUN in a Dockerfile.", otherwise: "outgoing connections"},
			dockerNetwork(), func(t *d, v string, _ *yaml.Node) { t.docker.Network = v }),
		field(keyInfo{name: "secrets", doc: "Ids of the secrets that RUN --mount=type=secret may use. Their values are given on the command line."},
			oneOrMany(secretID(), "an id or a list of ids"), func(t *d, v []string, _ *yaml.Node) { t.docker.Secrets = v }),
		field(keyInfo{name: "ssh", doc: "Ids of the ssh agents that RUN --mount=type=ssh may use."},
			oneOrMany(sshID(), "an id such as default, or a list of ids"), func(t *d, v []string, _ *yaml.Node) { t.docker.SSH = v }),
		field(keyInfo{name: "staged", doc: "Whether each group of the Dockerfile's instructions, up to and with a RUN, becomes a stage that any runner goes on from. With false the whole file is one stage.", otherwise: "true"},
			boolean(), func(t *d, v bool, _ *yaml.Node) { t.docker.Whole = !v }),
	}
}

// dockerKeys are those of dockerfileFields that need a Dockerfile.
func dockerKeys() []string {
	return []string{"context", "target", "args", "addHost", "network", "secrets", "ssh", "staged"}
}

// ownKeys describe an image that no Dockerfile makes.
func ownKeys() []string {
	return []string{"from", "fromImage", "fromCacheVersion", "git", "shell", "mount", "import", "docker"}
}

// finishDockerfile checks which keys stand together and fills in the defaults.
func finishDockerfile(r *reader, present map[string]*yaml.Node, d *imageDoc) {
	if present["dockerfile"] == nil {
		for _, key := range dockerKeys() {
			if n := present[key]; n != nil {
				r.failf(n, "add \"dockerfile\", or remove the key", "%q is only for an image that a Dockerfile makes", key)
			}
		}
		return
	}
	for _, key := range ownKeys() {
		if n := present[key]; n != nil {
			r.failf(n, "write it in the Dockerfile, or in another image that begins with fromImage", "%q and \"dockerfile\" exclude each other", key)
		}
	}
	f := d.docker
	f.Line = r.line(present["dockerfile"])
	switch {
	case r.dialect == DialectWerf:
		if f.Context == "" {
			f.Context = "."
		}
		f.Path = path.Join(f.Context, f.Path)
	case f.Context == "":
		f.Context = path.Dir(f.Path)
	}
	d.Dockerfile = &f
}

// dockerNetwork reads a network, of which "default" is as good as none.
func dockerNetwork() value[string] {
	return checked(oneOf("none", "host", "default"), "one of none, host, default", func(s string) (string, error) {
		if s == "default" {
			return "", nil
		}
		return s, nil
	})
}

// hostAddress reads a name and an address.
func hostAddress() value[string] {
	v := checked(text(), "a line such as db:10.0.0.1", func(s string) (string, error) {
		name, address, _ := strings.Cut(s, ":")
		if name == "" || net.ParseIP(address) == nil {
			return "", fmt.Errorf("%q is no line of a hosts file: want NAME:ADDRESS, for instance db:10.0.0.1", shorten(s))
		}
		return s, nil
	})
	v.schema = withPattern(v.schema, hostLine)
	return v
}

// sshID reads an id. In a werf.yaml it may say which sockets are behind it, which
// is not for the file to say here.
func sshID() value[string] {
	id := mountIDValue()
	return value[string]{words: id.words, schema: id.schema, read: func(r *reader, n *yaml.Node) (string, bool) {
		if n, ok := r.resolve(n); ok && n.Kind == yaml.ScalarNode && r.dialect == DialectWerf {
			if before, _, found := strings.Cut(n.Value, "="); found {
				r.problems.warnf(r.place(n), "", "ssh: what follows the = has no effect: agents are given on the command line")
				return before, true
			}
		}
		return id.read(r, n)
	}}
}

// secretID reads an id. A werf.yaml has a mapping in its place that says where the
// value is, too; that is not for the file to say here.
func secretID() value[string] {
	id := mountIDValue()
	return value[string]{words: "an id", schema: id.schema, read: func(r *reader, n *yaml.Node) (string, bool) {
		n, ok := r.resolve(n)
		if !ok || n.Kind != yaml.MappingNode || r.dialect != DialectWerf {
			return id.read(r, n)
		}
		pairs, ok := r.pairs(n, "an id or a mapping")
		if !ok {
			return "", false
		}
		return werfSecret(r, n, pairs)
	}}
}

func werfSecret(r *reader, at *yaml.Node, pairs []pair) (string, bool) {
	found := map[string]string{}
	for _, p := range pairs {
		if !slices.Contains([]string{"id", "env", "src"}, p.key.Value) {
			r.failf(p.key, "give the value on the command line", "the key %q of a secret is not supported", p.key.Value)
			return "", false
		}
		v, ok := r.scalar(p.value, "a string", false)
		if !ok {
			return "", false
		}
		found[p.key.Value] = v
	}
	id := found["id"]
	switch {
	case id != "":
	case found["env"] != "":
		id = found["env"]
	default:
		id = path.Base(found["src"])
	}
	if !mountID.MatchString(id) {
		r.failf(at, "add \"id\"", "the secret has no id")
		return "", false
	}
	r.problems.warnf(r.place(at), "", "where the secret %q comes from is not read from the file: give it on the command line", id)
	return id, true
}
