package wire

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/kube"
	"github.com/cairnbuild/cairn/stages"
)

// inCluster names the cluster of the pod that this process runs in.
const inCluster = "of this pod"

// clusters returns those of the contexts, or of all contexts, each once for each
// user, and those that the kubeconfig does not lead to. It fails for a context that
// it does not have.
func (h Host) clusters(contexts []string) ([]kube.Cluster, []*kube.Error, error) {
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: kubeconfigs(h)}
	raw, err := rules.Load()
	if err != nil {
		return nil, []*kube.Error{{Cluster: "of the kubeconfig", Err: err}}, nil
	}
	if len(contexts) == 0 && len(raw.Contexts) == 0 {
		return h.ownCluster()
	}
	if len(contexts) == 0 {
		contexts = slices.Sorted(maps.Keys(raw.Contexts))
	}
	var all []kube.Cluster
	var unread []*kube.Error
	type access struct{ cluster, user string }
	seen := make(map[access]bool)
	for _, name := range contexts {
		c := raw.Contexts[name]
		if c == nil {
			return nil, nil, &SettingError{"--kube-context", fmt.Errorf("the kubeconfig has no context %q", name),
				"it has " + strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", ")}
		}
		if at := (access{c.Cluster, c.AuthInfo}); seen[at] {
			continue
		} else {
			seen[at] = true
		}
		config, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
		if err != nil {
			unread = append(unread, &kube.Error{Cluster: name, Err: err})
			continue
		}
		all = append(all, kube.Cluster{Name: name, Config: config})
	}
	return all, unread, nil
}

// ownCluster is that of a pod, or none at all.
func (h Host) ownCluster() ([]kube.Cluster, []*kube.Error, error) {
	if h.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, []*kube.Error{{Cluster: "(none)", Err: fmt.Errorf("there is no kubeconfig (%s)", strings.Join(kubeconfigs(h), ", "))}}, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, []*kube.Error{{Cluster: inCluster, Err: err}}, nil
	}
	return []kube.Cluster{{Name: inCluster, Config: config}}, nil, nil
}

// maxKeepList bounds the keep list, in bytes.
const maxKeepList = 4 << 20

// readKeepList reads a file with an image on each line: a reference by digest or by
// tag, a digest, or a tag alone. What follows a # is a comment.
func readKeepList(path string) ([]cleanup.Mention, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err == nil && len(b) > maxKeepList {
		err = fmt.Errorf("%s has more than %d MiB", path, maxKeepList>>20)
	}
	if err != nil {
		return nil, &SettingError{"--keep-list", err, "name a file with an image on each line"}
	}
	var out []cleanup.Mention
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		text, _, _ := strings.Cut(line, "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		m, err := parseKept(text)
		m.Where = fmt.Sprintf("%s:%d", path, number)
		if err != nil {
			return nil, &SettingError{"--keep-list", fmt.Errorf("%s: %w", m.Where, err), "write REPOSITORY@sha256:…, REPOSITORY:TAG, sha256:… or a tag"}
		}
		out = append(out, m)
	}
	return out, nil
}

var errKeepLine = errors.New("the line names no image")

func parseKept(text string) (cleanup.Mention, error) {
	if _, after, ok := strings.Cut(text, "@"); ok {
		text = after
	}
	if strings.HasPrefix(text, "sha256:") {
		d, err := stages.ParseDigest(text)
		return cleanup.Mention{Digest: d}, err
	}
	rest := text[strings.LastIndex(text, "/")+1:]
	if i := strings.LastIndex(rest, ":"); i >= 0 {
		rest = rest[i+1:]
	} else if rest != text {
		return cleanup.Mention{}, fmt.Errorf("%w: %q has neither a tag nor a digest", errKeepLine, text)
	}
	if rest == "" || strings.ContainsAny(rest, " \t") {
		return cleanup.Mention{}, fmt.Errorf("%w: %q", errKeepLine, text)
	}
	return cleanup.Mention{Tag: rest}, nil
}
