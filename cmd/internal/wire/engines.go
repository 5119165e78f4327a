package wire

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/engine/kubepod"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

const engineHint = "want [PLATFORM=]ADDRESS with an ADDRESS of unix://PATH, tcp://HOST:PORT?ca=FILE&cert=FILE&key=FILE (the files are not needed on loopback), " +
	"kube-pod://NAMESPACE/POD or docker-container://NAME; docs/engines.md explains them"

// engines returns the addresses of engines by the platform that each is for; ""
// is for the platforms that have none of their own.
func (s Settings) engines() (map[stages.Platform]string, error) {
	out := make(map[stages.Platform]string, len(s.Engines))
	for _, given := range s.Engines {
		platform, address, err := splitEngine(given)
		if err != nil {
			return nil, &SettingError{"--engine", err, engineHint}
		}
		if other, ok := out[platform]; ok {
			what := "every platform"
			if platform != "" {
				what = string(platform)
			}
			return nil, &SettingError{"--engine", fmt.Errorf("both %s and %s are for %s", other, address, what), "name one engine for a platform"}
		}
		out[platform] = address
	}
	return out, nil
}

// splitEngine takes [PLATFORM=]ADDRESS apart. An address may have a "=" as well,
// but only behind its scheme.
func splitEngine(given string) (stages.Platform, string, error) {
	var platform stages.Platform
	address := given
	if before, after, ok := strings.Cut(given, "="); ok && !strings.Contains(before, "://") {
		var err error
		if platform, err = stages.ParsePlatform(before); err != nil {
			return "", "", err
		}
		if platform.OS() != "linux" || !slices.Contains(architectures(), platform.Architecture()) {
			return "", "", fmt.Errorf("%s is none of the platforms that engines build for: want linux with one of %s", platform, strings.Join(architectures(), ", "))
		}
		address = after
	}
	a, err := engine.ParseAddress(address)
	if err == nil && a.TLS != nil {
		err = readable(a.TLS.Cert, a.TLS.Key, a.TLS.CA)
	}
	return platform, address, err
}

// architectures are those that BuildKit knows on Linux.
func architectures() []string {
	return []string{"amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips64", "mips64le"}
}

// readable reports the first of files that cannot be read, so that a misspelt name
// is not found only where the engine is needed. Those without a name are left out.
func readable(files ...string) error {
	for _, name := range files {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Engine connects to the engine that the settings name for a platform, or else to
// the one that they name for all, or else to the host's own daemon, which is
// started when none runs. What is given to commands goes through it.
func (s Settings) Engine(ctx context.Context, h Host, p stages.Platform, g *Given) (*engine.Engine, error) {
	agents, err := g.agentsOf()
	if err != nil {
		return nil, err
	}
	named, err := s.engines()
	if err != nil {
		return nil, err
	}
	address, ok := named[p]
	if !ok {
		address, ok = named[""]
	}
	if !ok {
		address, _, err = daemonctl.Ensure(ctx, s.daemonOptions(h))
		if err != nil {
			return nil, err
		}
	}
	return engine.Dial(ctx, address, engine.Options{
		Now: h.Now, Proxy: proxy(h), Secrets: g, Agents: agents,
		Connect: func(ctx context.Context) (net.Conn, error) { return dialPod(ctx, h, address) },
	})
}

// daemonOptions are how the host's own daemon is started. One that cannot know its
// cache directory evicts from its engine alone.
func (s Settings) daemonOptions(h Host) daemonctl.Options {
	o := daemonctl.Options{Paths: s.daemonPaths(h), Beside: h.Program}
	if cache, err := s.cacheDir(h); err == nil {
		o.Cache = cache
	}
	return o
}

// TellDaemon has the daemon that the settings lead to count a build, where one
// runs. It starts none.
func (s Settings) TellDaemon(ctx context.Context, h Host, sum daemonctl.BuildSummary) error {
	paths := s.daemonPaths(h)
	named, err := s.engines()
	if err != nil {
		return err
	}
	if address, ok := named[""]; ok {
		a, err := engine.ParseAddress(address)
		if err != nil || a.Scheme != engine.SchemeUnix {
			return err // nil where it is not on this host
		}
		paths = daemonctl.Paths{Socket: a.Target}
	}
	return daemonctl.Tell(ctx, paths, sum)
}

// dialPod opens a stream to an engine in a pod, with the access that a kubeconfig
// or the pod that cairn runs in gives.
func dialPod(ctx context.Context, h Host, address string) (net.Conn, error) {
	a, err := engine.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	quietKlog(h.Log)
	config, err := clusterConfig(h, kubernetes.Address{Context: a.Pod.Context, Kubeconfig: a.Pod.Kubeconfig})
	if err != nil {
		return nil, fmt.Errorf("no cluster for %s: %w", address, err)
	}
	config.UserAgent = "cairn/" + h.Version
	return kubepod.Dial(ctx, config, kubepod.Target{Namespace: a.Pod.Namespace, Pod: a.Pod.Name, Container: a.Pod.Container, Program: a.Pod.Program})
}

// proxy hands the proxy variables of the environment to commands; both spellings are in use.
func proxy(h Host) engine.Proxy {
	get := func(upper, lower string) string {
		if v := h.Getenv(upper); v != "" {
			return v
		}
		return h.Getenv(lower)
	}
	return engine.Proxy{
		HTTP: get("HTTP_PROXY", "http_proxy"), HTTPS: get("HTTPS_PROXY", "https_proxy"),
		FTP: get("FTP_PROXY", "ftp_proxy"), No: get("NO_PROXY", "no_proxy"), All: get("ALL_PROXY", "all_proxy"),
	}
}
