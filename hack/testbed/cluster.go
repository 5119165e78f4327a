package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// KubeconfigVariable names a cluster to use in place of one that is started here.
// It must be one for tests: they make and remove namespaces, roles and users'
// rights in it.
const KubeconfigVariable = "CAIRN_TEST_KUBECONFIG"

// clusterLimit is how long the API server may take to become ready.
const clusterLimit = 2 * time.Minute

// ClusterOptions say how a cluster is set up.
type ClusterOptions struct {
	// Dir keeps the state; "" is a temporary directory that Stop removes.
	Dir string
	// Flags are more flags of the API server.
	Flags []string
	// Optimized takes programs that were built with the compiler's optimization, which
	// takes half as long again: for measurements, not for tests.
	Optimized bool
}

// binary returns the program that all parts of the cluster are.
func (o ClusterOptions) binary() (string, error) {
	if o.Optimized {
		return tool(filepath.Join("optimized", "kubeall"), "kube-optimized")
	}
	return tool("kubeall", "kube")
}

// Cluster is a control plane without controllers or nodes, etcd and an API
// server with RBAC: all that stores and guards objects.
type Cluster struct {
	// Kubeconfig is a file whose current context is the administrator's.
	Kubeconfig string

	dir       string
	temporary bool
	config    *rest.Config
	issuer    *issuer // nil for a cluster that was not started here
	binary    string
	address   string
	etcdURL   string
	flags     []string
	etcd      *process
	server    *process
}

// errForeign: the cluster of [KubeconfigVariable] is not ours to end.
var errForeign = errors.New("the cluster of " + KubeconfigVariable + " cannot be killed, restarted or measured")

// StartCluster starts a cluster on loopback and returns when it is ready, or
// connects to the one that the environment names.
func StartCluster(ctx context.Context, opts ClusterOptions) (_ *Cluster, err error) {
	if path := os.Getenv(KubeconfigVariable); path != "" {
		return foreignCluster(path)
	}
	binary, err := opts.binary()
	if err != nil {
		return nil, fmt.Errorf("%w (make tools builds all of them)", err)
	}
	c := &Cluster{dir: opts.Dir, binary: binary, flags: opts.Flags}
	if c.dir == "" {
		c.temporary = true
		if c.dir, err = os.MkdirTemp("", "cairn-cluster-"); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, clusterLimit)
	defer cancel()
	if c.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if err = c.certify(); err != nil {
		return nil, err
	}
	if err = c.startEtcd(ctx); err != nil {
		return nil, err
	}
	if err = c.startServer(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// foreignCluster uses a cluster that runs already.
func foreignCluster(kubeconfig string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", KubeconfigVariable, kubeconfig, err)
	}
	config.QPS = -1
	return &Cluster{Kubeconfig: kubeconfig, config: config}, nil
}

// NewCluster is [StartCluster] for a test, which ends it.
func NewCluster(t T, opts ClusterOptions) *Cluster {
	t.Helper()
	c, err := StartCluster(t.Context(), opts)
	if err != nil {
		t.Fatalf("start a Kubernetes API server: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("stop the Kubernetes API server: %v", err)
		}
	})
	return c
}

// Config returns the administrator's access to the cluster.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// User returns the access of a user without any rights of its own. In a cluster
// that was not started here the administrator plays the user.
func (c *Cluster) User(name string, groups ...string) (*rest.Config, error) {
	config := c.Config()
	if c.issuer == nil {
		config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: append(groups, "system:authenticated")}
		return config, nil
	}
	cert, key, err := c.issuer.issue(name, groups, false)
	if err != nil {
		return nil, err
	}
	config.CertData, config.KeyData = cert, key
	return config, nil
}

// Kubectl returns a call of kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	name, args := c.binary, append([]string{"kubectl", "--kubeconfig", c.Kubeconfig}, args...)
	if c.binary == "" {
		name, args = "kubectl", args[1:]
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir)
	return cmd
}

// Kill ends the API server as a crash would, and leaves etcd.
func (c *Cluster) Kill() error {
	if c.issuer == nil {
		return errForeign
	}
	return c.server.kill()
}

// Restart starts the API server again, after Kill or in place of the one that
// runs, at the same address and with the same data.
func (c *Cluster) Restart(ctx context.Context) error {
	if c.issuer == nil {
		return errForeign
	}
	if err := c.server.stop(stopGrace); err != nil {
		return err
	}
	return c.startServer(ctx)
}

// CPU returns the processor time that the API server and etcd have used since they
// were started. It is known on Linux, of a cluster that was started here.
func (c *Cluster) CPU() (time.Duration, error) {
	if c.issuer == nil {
		return 0, errForeign
	}
	var all time.Duration
	for _, p := range []*process{c.server, c.etcd} {
		used, err := processorTime(p.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		all += used
	}
	return all, nil
}

// Stop ends the cluster and removes its state where it is temporary.
func (c *Cluster) Stop() error {
	var errs []error
	for _, p := range []*process{c.server, c.etcd} {
		if p != nil {
			errs = append(errs, p.stop(stopGrace))
		}
	}
	if c.temporary {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// startEtcd runs without fsync: the data need not outlive the machine.
func (c *Cluster) startEtcd(ctx context.Context) error {
	client, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	peer, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	c.etcdURL = "http://" + client
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.binary, "etcd", "--data-dir", c.path("etcd"),
		"--listen-client-urls", c.etcdURL, "--advertise-client-urls", c.etcdURL,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", "default=http://"+peer, "--unsafe-no-fsync", "--log-level", "warn")
	c.etcd, err = startProcess(cmd, nil)
	return err
}

// startServer starts the API server, which waits for etcd by itself, and returns
// when it is ready.
func (c *Cluster) startServer(ctx context.Context) error {
	host, port, _ := strings.Cut(c.address, ":")
	args := []string{
		"kube-apiserver", "--etcd-servers=" + c.etcdURL,
		"--bind-address=" + host, "--secure-port=" + port, "--cert-dir=" + c.path("certs"),
		"--tls-cert-file=" + c.path("server.crt"), "--tls-private-key-file=" + c.path("server.key"),
		"--client-ca-file=" + c.path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + c.path("accounts.key"), "--service-account-key-file=" + c.path("accounts.key"),
		"--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
		"--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
		"--profiling=false", "--shutdown-delay-duration=0s",
	}
	var err error
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.binary, append(args, c.flags...)...)
	if c.server, err = startProcess(cmd, nil); err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(c.Config())
	if err != nil {
		return err
	}
	return c.server.await(ctx, func(ctx context.Context) error { return getOK(ctx, client, "https://"+c.address+"/readyz") })
}

// certify makes the certificates, the kubeconfig and the administrator's access.
func (c *Cluster) certify() error {
	var err error
	if c.issuer, err = newIssuer(); err != nil {
		return err
	}
	serverCert, serverKey, err := c.issuer.issue("kube-apiserver", nil, true)
	if err != nil {
		return err
	}
	accounts, err := newAccountsKey()
	if err != nil {
		return err
	}
	cert, key, err := c.issuer.issue("admin", []string{"system:masters"}, false)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt": c.issuer.pem, "server.crt": serverCert, "server.key": serverKey, "accounts.key": accounts,
	} {
		if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
			return err
		}
	}
	c.config = &rest.Config{
		Host: "https://" + c.address, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.issuer.pem, CertData: cert, KeyData: key},
	}
	c.Kubeconfig = c.path("kubeconfig")
	return c.WriteKubeconfig(c.Kubeconfig, "admin", c.config)
}

// WriteKubeconfig writes a kubeconfig whose one context, of the given name, is
// current and gives the config's access.
func (c *Cluster) WriteKubeconfig(path, name string, config *rest.Config) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["test"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	k.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
	}
	k.Contexts[name] = &clientcmdapi.Context{Cluster: "test", AuthInfo: name}
	k.CurrentContext = name
	return clientcmd.WriteToFile(*k, path)
}
