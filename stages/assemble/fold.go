package assemble

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// fold returns c with what a project configures put in, as the Dockerfile
// instructions of the same names would do it. Values are literal: a "$NAME" in
// them stays as it is, since they come from a file that has its own templates.
func fold(c dockerspec.DockerOCIImage, cfg *stages.Config) (dockerspec.DockerOCIImage, error) {
	if cfg.IsZero() {
		return c, nil
	}
	var err error
	to := &c.Config
	if to.Env, err = foldEnv(to.Env, cfg.Env); err != nil {
		return c, err
	}
	if to.ExposedPorts, err = foldPorts(to.ExposedPorts, cfg.Expose); err != nil {
		return c, err
	}
	to.Volumes = foldSet(to.Volumes, cfg.Volumes)
	if len(cfg.Labels) > 0 {
		labels := maps.Clone(cfg.Labels)
		for k, v := range to.Labels {
			if _, ok := labels[k]; !ok {
				labels[k] = v
			}
		}
		to.Labels = labels
	}
	foldCommand(to, cfg)
	to.Healthcheck = foldHealthcheck(to.Healthcheck, cfg.Healthcheck)
	if cfg.StopSignal != "" {
		to.StopSignal = cfg.StopSignal
	}
	if cfg.User != "" {
		to.User = cfg.User
	}
	if cfg.WorkDir != "" {
		to.WorkingDir = workDir(to.WorkingDir, cfg.WorkDir)
	}
	return c, nil
}

// foldCommand has an ENTRYPOINT clear the CMD of the image below, which was
// written for another one.
func foldCommand(to *dockerspec.DockerOCIImageConfig, cfg *stages.Config) {
	if len(cfg.Entrypoint) > 0 {
		to.Entrypoint, to.Cmd = slices.Clone(cfg.Entrypoint), nil
		to.ArgsEscaped = false //nolint:staticcheck // deprecated, but still read off bases
	}
	if len(cfg.Cmd) > 0 {
		to.Cmd = slices.Clone(cfg.Cmd)
		to.ArgsEscaped = false //nolint:staticcheck // see above
	}
}

// workDir joins a relative WORKDIR with the one below.
func workDir(below, dir string) string {
	if path.IsAbs(dir) {
		return path.Clean(dir)
	}
	return path.Join("/", below, dir)
}

// foldEnv replaces variables where they stand and appends new ones by name.
func foldEnv(below []string, set map[string]string) ([]string, error) {
	out := make([]string, 0, len(below)+len(set))
	seen := make(map[string]bool, len(set))
	for _, kv := range below {
		name, _, _ := strings.Cut(kv, "=")
		v, ok := set[name]
		switch {
		case !ok:
			out = append(out, kv)
		case !seen[name]:
			out = append(out, name+"="+v)
			seen[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(set[name], 0) {
			return nil, fmt.Errorf("ENV %q: no environment variable can have this name and value", name)
		}
		if !seen[name] {
			out = append(out, name+"="+set[name])
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func foldSet(below map[string]struct{}, add []string) map[string]struct{} {
	if len(add) == 0 {
		return below
	}
	out := make(map[string]struct{}, len(below)+len(add))
	maps.Copy(out, below)
	for _, s := range add {
		out[s] = struct{}{}
	}
	return out
}

func foldPorts(below map[string]struct{}, expose []string) (map[string]struct{}, error) {
	var add []string
	for _, e := range expose {
		ports, err := expandPorts(e)
		if err != nil {
			return nil, err
		}
		add = append(add, ports...)
	}
	return foldSet(below, add), nil
}

// expandPorts reads "80", "80/udp" or "8000-8010/tcp".
func expandPorts(s string) ([]string, error) {
	wrong := fmt.Errorf("EXPOSE %q: want a port such as 80, 53/udp or 8000-8010/tcp", s)
	ports, proto, ok := strings.Cut(strings.ToLower(s), "/")
	if !ok {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return nil, wrong
	}
	from, to, ok := strings.Cut(ports, "-")
	if !ok {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return nil, wrong
	}
	b, err := strconv.ParseUint(to, 10, 16)
	if err != nil || b < a {
		return nil, wrong
	}
	out := make([]string, 0, b-a+1)
	for p := a; p <= b; p++ {
		out = append(out, strconv.FormatUint(p, 10)+"/"+proto)
	}
	return out, nil
}

// foldHealthcheck inherits what h leaves at zero, except from or to NONE.
func foldHealthcheck(below *dockerspec.HealthcheckConfig, h *stages.Healthcheck) *dockerspec.HealthcheckConfig {
	if h == nil {
		return below
	}
	if len(h.Test) > 0 && h.Test[0] == "NONE" {
		return &dockerspec.HealthcheckConfig{Test: []string{"NONE"}}
	}
	var out dockerspec.HealthcheckConfig
	if below != nil && (len(below.Test) == 0 || below.Test[0] != "NONE") {
		out = *below
	}
	if len(h.Test) > 0 {
		out.Test = slices.Clone(h.Test)
	}
	if h.Interval != 0 {
		out.Interval = time.Duration(h.Interval)
	}
	if h.Timeout != 0 {
		out.Timeout = time.Duration(h.Timeout)
	}
	if h.StartPeriod != 0 {
		out.StartPeriod = time.Duration(h.StartPeriod)
	}
	if h.Retries != 0 {
		out.Retries = h.Retries
	}
	return &out
}
