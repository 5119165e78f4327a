package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// dockerObject is the docker: key of an image.
func dockerObject() value[stages.Config] {
	type c = stages.Config
	return object[c]{
		title:   "docker",
		doc:     "The image's config. What is not given is inherited from the base.",
		example: "docker:\n  WORKDIR: /app\n  USER: app\n  EXPOSE: [8080, 53/udp]\n  ENV:\n    PORT: 8080\n  LABEL:\n    org.opencontainers.image.title: shop\n  ENTRYPOINT: [/app/server]\n  CMD: [--verbose]\n  VOLUME: [/var/lib/shop]\n  HEALTHCHECK:\n    test: curl -f http://127.0.0.1:8080/\n    interval: 30s\n    retries: 3\n  STOPSIGNAL: SIGTERM\n",
		refused: []refusal{
			{key: "exactValues", message: "exactValues is not supported", hint: "values are always taken exactly; remove the key", werfOnly: true},
			{key: "ONBUILD", message: "ONBUILD is not supported", hint: "OCI images have no triggers; put the commands into shell"},
			{key: "SHELL", message: "SHELL is not supported", hint: "write ENTRYPOINT and CMD as lists"},
			{key: "MAINTAINER", message: "MAINTAINER is not supported", hint: "use LABEL org.opencontainers.image.authors"},
		},
	}.asValue(
		field(keyInfo{name: "WORKDIR", doc: "Working directory."}, absolute(), func(t *c, v string, _ *yaml.Node) { t.WorkDir = v }),
		field(keyInfo{name: "USER", doc: "User, and group if need be, that the container runs as."},
			matching(plain(), userName, "user", "user or user:group, names or numbers"), func(t *c, v string, _ *yaml.Node) { t.User = v }),
		field(keyInfo{name: "EXPOSE", doc: "Ports that the container listens on."}, oneOrMany(port(), "a port such as 80 or 53/udp, or a list of such"), func(t *c, v []string, _ *yaml.Node) { t.Expose = v }),
		field(keyInfo{name: "ENV", doc: "Environment variables."}, variables(), func(t *c, v map[string]string, _ *yaml.Node) { t.Env = v }),
		field(keyInfo{name: "LABEL", doc: "Labels."}, labels(), func(t *c, v map[string]string, _ *yaml.Node) { t.Labels = v }),
		field(keyInfo{name: "ENTRYPOINT", doc: "What the container runs. An ENTRYPOINT without CMD clears an inherited CMD."}, command(), func(t *c, v []string, _ *yaml.Node) { t.Entrypoint = v }),
		field(keyInfo{name: "CMD", doc: "Arguments of ENTRYPOINT, or the command where there is none."}, command(), func(t *c, v []string, _ *yaml.Node) { t.Cmd = v }),
		field(keyInfo{name: "VOLUME", doc: "Paths that hold data."}, oneOrMany(absolute(), "an absolute path or a list of such"), func(t *c, v []string, _ *yaml.Node) { t.Volumes = v }),
		field(keyInfo{name: "HEALTHCHECK", doc: "How to find out whether the container works: a command as in a Dockerfile (the word CMD may be left out), NONE, or a mapping."},
			healthcheck(), func(t *c, v stages.Healthcheck, _ *yaml.Node) { t.Healthcheck = &v }),
		field(keyInfo{name: "STOPSIGNAL", doc: "Signal that ends the container."},
			matching(plain(), signalName, "signal", "a name such as SIGTERM or a number"), func(t *c, v string, _ *yaml.Node) { t.StopSignal = v }),
	)
}

func variables() value[map[string]string] {
	return mapOf("a mapping of names to values", func(s string) error {
		if !variableName.MatchString(s) {
			return fmt.Errorf("%q is no name of a variable: want letters, digits and _ . -, beginning with a letter or _", shorten(s))
		}
		return nil
	}, variablePattern, plain())
}

func labels() value[map[string]string] {
	return mapOf("a mapping of names to values", func(s string) error {
		if !labelName.MatchString(s) {
			return fmt.Errorf("%q is no name of a label: white space and = are not allowed", shorten(s))
		}
		return nil
	}, labelPattern, plain())
}

// healthcheck reads a string or a mapping.
func healthcheck() value[stages.Healthcheck] {
	mapping := healthcheckObject()
	short := checked(text(), "a string", func(s string) (stages.Healthcheck, error) {
		test, err := parseHealthcheck(s)
		return stages.Healthcheck{Test: test}, err
	})
	words := "a string or a mapping"
	return value[stages.Healthcheck]{
		words: words, schema: map[string]any{"anyOf": []any{short.schema, mapping.schema}}, objects: mapping.objects,
		read: func(r *reader, n *yaml.Node) (stages.Healthcheck, bool) {
			n, ok := r.resolve(n)
			if !ok {
				return stages.Healthcheck{}, false
			}
			switch {
			case n.Kind == yaml.MappingNode:
				return mapping.read(r, n)
			case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
				r.mismatch(n, words)
				return stages.Healthcheck{}, false
			default:
				return short.read(r, n)
			}
		},
	}
}

func healthcheckObject() value[stages.Healthcheck] {
	type c = stages.Healthcheck
	return object[c]{
		title: "docker.HEALTHCHECK",
		doc:   "HEALTHCHECK as a mapping. Exactly one of test and cmd is given.",
		finish: func(r *reader, n *yaml.Node, present map[string]*yaml.Node, h *c) {
			test, cmd := present["test"], present["cmd"]
			if (test == nil) == (cmd == nil) {
				r.failf(n, "", "want exactly one of the keys \"test\" and \"cmd\"")
			}
		},
	}.asValue(
		field(keyInfo{name: "test", doc: "The check: a string for the shell, or a list that begins with CMD, CMD-SHELL or NONE."}, healthTest(), func(t *c, v []string, _ *yaml.Node) { t.Test = v }),
		field(keyInfo{name: "cmd", doc: "The check: a string for the shell, or a list to execute."}, healthCommand(), func(t *c, v []string, _ *yaml.Node) { t.Test = v }),
		field(keyInfo{name: "interval", doc: "Time between two checks.", otherwise: "inherited"}, duration(), func(t *c, v int64, _ *yaml.Node) { t.Interval = v }),
		field(keyInfo{name: "timeout", doc: "How long a check may take.", otherwise: "inherited"}, duration(), func(t *c, v int64, _ *yaml.Node) { t.Timeout = v }),
		field(keyInfo{name: "startPeriod", doc: "Time in which failures do not count.", otherwise: "inherited"}, duration(), func(t *c, v int64, _ *yaml.Node) { t.StartPeriod = v }),
		field(keyInfo{name: "retries", doc: "Failures in a row that make the container unhealthy.", otherwise: "inherited"}, number(), func(t *c, v int, _ *yaml.Node) { t.Retries = v }),
	)
}

// healthTest reads Docker's own form of a check.
func healthTest() value[[]string] {
	return checked(stringOrList(), "a string or a list of strings", func(list []string) ([]string, error) {
		if len(list) == 1 {
			return parseHealthcheck(list[0])
		}
		switch list[0] {
		case "CMD":
			return list, nil
		case "CMD-SHELL":
			if len(list) == 2 {
				return list, nil
			}
			return nil, errors.New("CMD-SHELL takes exactly one string")
		default:
			return nil, fmt.Errorf("the list begins with %q; allowed: CMD, CMD-SHELL, NONE", shorten(list[0]))
		}
	})
}

// healthCommand reads the command of a check without Docker's first word.
func healthCommand() value[[]string] {
	v := command()
	return checked(v, v.words, func(list []string) ([]string, error) {
		if len(list) == 3 && list[0] == "/bin/sh" && list[1] == "-c" {
			return []string{"CMD-SHELL", list[2]}, nil
		}
		return append([]string{"CMD"}, list...), nil
	})
}

func stringOrList() value[[]string] {
	return oneOrMany(text(), "a string or a list of strings")
}

// parseHealthcheck reads what follows HEALTHCHECK in a Dockerfile, the word CMD
// being optional.
func parseHealthcheck(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	if s == "NONE" {
		return []string{"NONE"}, nil
	}
	if strings.HasPrefix(s, "--") {
		return nil, errors.New("options are not read from the string; write a mapping with test, interval, timeout, startPeriod, retries")
	}
	after, hasCMD := strings.CutPrefix(s, "CMD ")
	after = strings.TrimSpace(after)
	if after == "" || s == "CMD" {
		return nil, errors.New("the check is empty")
	}
	var exec []string
	if hasCMD && json.Unmarshal([]byte(after), &exec) == nil && len(exec) > 0 {
		return append([]string{"CMD"}, exec...), nil
	}
	return []string{"CMD-SHELL", after}, nil
}
