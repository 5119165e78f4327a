package wire

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/cairnbuild/cairn/cleanup/kube"
	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
	synclocal "github.com/cairnbuild/cairn/synchronization/local"
)

// localLook is how often a run that waits looks whether the process that it waits
// for lives. On one host that is a question to the kernel, and cheap.
const localLook = 100 * time.Millisecond

// checkSynchronization refuses an address that names no ledger.
func checkSynchronization(address string) error {
	if address == "" || address == Local {
		return nil
	}
	refuse := func(err error) error {
		return &SettingError{"--synchronization", err, "want " + Local + " or kubernetes://NAMESPACE[?context=NAME&kubeconfig=FILE&ttl=DURATION]"}
	}
	scheme, _, ok := strings.Cut(address, "://")
	switch {
	case !ok:
		return refuse(fmt.Errorf("%q is no address of a ledger", address))
	case scheme != kubernetes.Scheme:
		return refuse(fmt.Errorf("%s: the scheme %s is not known", address, scheme))
	}
	if _, err := kubernetes.ParseAddress(address); err != nil {
		return refuse(err)
	}
	return nil
}

// LedgerAddress returns the ledger's address. Unless the settings name one, that
// is this host for a local storage, and for a registry the default namespace of
// the current cluster, or this host where no cluster is configured.
func (s Settings) LedgerAddress(h Host) string {
	switch {
	case s.Synchronization != "":
		return s.Synchronization
	case s.Storage == Local || !hasCluster(h):
		return Local
	}
	return kubernetes.Address{Namespace: kubernetes.DefaultNamespace}.String()
}

// hasCluster reports whether a kubeconfig is there, or this is a pod. It reads no file.
func hasCluster(h Host) bool {
	for _, path := range kubeconfigs(h) {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return h.Getenv("KUBERNETES_SERVICE_HOST") != "" && h.Getenv("KUBERNETES_SERVICE_PORT") != ""
}

// kubeconfigs returns where kubectl looks.
func kubeconfigs(h Host) []string {
	if list := h.Getenv("KUBECONFIG"); list != "" {
		return filepath.SplitList(list)
	}
	if home := daemonctl.Home(h.Getenv); home != "" {
		return []string{filepath.Join(home, ".kube", "config")}
	}
	return nil
}

// openBackend opens where the project's ledger lives, and returns it with the
// options of a ledger there.
func (s Settings) openBackend(ctx context.Context, h Host, project string) (synchronization.Backend, synchronization.Options, error) {
	o := synchronization.Options{
		Now: h.Now, Rand: h.Rand, Logger: h.Log, Holder: holder(), Delta: h.Late.Delta, Guard: h.Late.Guard,
	}
	var b synchronization.Backend
	var err error
	if address := s.LedgerAddress(h); address != Local {
		b, o.TTL, err = openCluster(ctx, h, address)
	} else {
		o.LookEvery = localLook
		b, err = s.openLocalLedger(ctx, h, project)
	}
	return b, o, err
}

func (s Settings) openLocalLedger(ctx context.Context, h Host, project string) (synchronization.Backend, error) {
	dir, err := s.ledgerDir(h, project)
	if err != nil {
		return nil, err
	}
	if s.Storage == Local {
		// The layout comes first: it is not made in a directory that holds something else.
		if _, err := local.Open(ctx, filepath.Dir(dir)); err != nil {
			return nil, err
		}
	}
	b, err := synclocal.Open(ctx, dir, synclocal.Options{Now: h.Now, Rand: h.Rand})
	if err != nil {
		return nil, &LedgerDirError{Err: err}
	}
	return b, nil
}

// ledgerDir is where the local ledger lies: one for each storage. That of local
// stages is inside their layout: a ledger that outlived them would protect stages
// that are gone, and have builds wait until it forgets them.
func (s Settings) ledgerDir(h Host, project string) (string, error) {
	if s.Storage == Local {
		dir, err := s.stagesDir(h, project)
		return filepath.Join(dir, "ledger"), err
	}
	dir, err := s.stateDir(h)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "ledger", project+"-"+shortHash(s.Storage)), nil
}

// openCluster returns the backend and the TTL that its address asks for.
func openCluster(ctx context.Context, h Host, address string) (synchronization.Backend, time.Duration, error) {
	a, err := kubernetes.ParseAddress(address)
	if err != nil {
		return nil, 0, err
	}
	quietKlog(h.Log)
	config, err := clusterConfig(h, a)
	if err != nil {
		return nil, 0, &NoClusterError{Address: address, Err: err}
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &audited{next: next, id: h.requestIDs(), now: h.Now, log: h.Log}
	})
	b, err := kubernetes.Open(ctx, kubernetes.Options{
		Config: config, Namespace: a.Namespace, UserAgent: "cairn/" + h.Version, Now: h.Now,
	})
	if err != nil {
		return nil, 0, err
	}
	return b, a.TTL, nil
}

// clusterConfig reads the kubeconfigs, or takes a pod's own account where there
// are none.
func clusterConfig(h Host, a kubernetes.Address) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: a.Kubeconfig, Precedence: kubeconfigs(h)}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: a.Context}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
}

// quietKlog sends what client-go's own logger says to ours: it is one for the
// whole process and would write to standard error.
func quietKlog(log *zap.Logger) {
	if log == nil {
		log = zap.NewNop()
	}
	klog.SetLogger(funcr.New(func(prefix, args string) {
		log.Debug("client-go", zap.String("from", prefix), zap.String("said", args))
	}, funcr.Options{}))
}

// LedgerDirError says that the directory of a local ledger cannot be used.
type LedgerDirError struct{ Err error }

// Error implements error.
func (e *LedgerDirError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LedgerDirError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*LedgerDirError) Hint() string {
	return "name a directory that may be written with --state-dir"
}

// NoClusterError says that the kubeconfig does not lead to a cluster.
type NoClusterError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *NoClusterError) Error() string {
	return fmt.Sprintf("no cluster for %s: %s", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *NoClusterError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*NoClusterError) Hint() string {
	return "check KUBECONFIG and the context, or name another ledger with --synchronization"
}

// ClusterError is a request that a ledger's cluster did not answer as it should.
type ClusterError = kubernetes.Error

// ClusterFullError says that a ledger's object would become too large.
type ClusterFullError = kubernetes.FullError

// Manifest returns what an administrator applies so that the subjects may use
// ledgers in the namespace; "" is the one of the settings.
func (s Settings) Manifest(namespace string, accounts, users, groups []string) (string, error) {
	if namespace == "" {
		namespace = s.namespace()
	}
	m := kubernetes.Manifest{Namespace: namespace}
	for _, name := range accounts {
		space, account, ok := strings.Cut(name, ":")
		if !ok {
			space, account = namespace, name
		}
		m.Subjects = append(m.Subjects, kubernetes.Subject{Kind: "ServiceAccount", Name: account, Namespace: space})
	}
	for _, name := range users {
		m.Subjects = append(m.Subjects, kubernetes.Subject{Kind: "User", Name: name})
	}
	for _, name := range groups {
		m.Subjects = append(m.Subjects, kubernetes.Subject{Kind: "Group", Name: name})
	}
	return m.Encode()
}

// namespace is that of the ledger's address, or the default.
func (s Settings) namespace() string {
	if a, err := kubernetes.ParseAddress(s.Synchronization); err == nil {
		return a.Namespace
	}
	return kubernetes.DefaultNamespace
}

// CleanupManifest returns what an administrator applies so that a cluster cleans up
// on a schedule: the rights in the ledger's namespace, and the job, in namespace or
// where that is "" beside the ledger.
func (s Settings) CleanupManifest(namespace string, job kube.Manifest) (string, error) {
	ledgers := s.namespace()
	job.Namespace = cmp.Or(namespace, ledgers)
	job.Storage = s.Storage
	job.Ledger = kubernetes.Address{Namespace: ledgers}.String()
	text, err := job.Encode()
	if err != nil {
		return "", err
	}
	rights, err := s.Manifest(ledgers, []string{job.Namespace + ":" + kube.Account}, nil, nil)
	return rights + text, err
}
