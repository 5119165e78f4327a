package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	"github.com/moby/buildkit/worker/runc"
	"github.com/moby/sys/userns"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// EngineConfig of the engine process.
type EngineConfig struct {
	// State is the daemon's state directory; the engine keeps its own below.
	State string
	// Socket is the path on which to serve the BuildKit API.
	Socket string
	// Network and KeepBytes are those of [Config].
	Network   string
	KeepBytes int64
	// Ready is called when the engine takes work.
	Ready func()
	// Life is read to its end, which is the end of the daemon and so of the engine.
	Life io.Reader
}

// RunEngine serves the BuildKit API until ctx or c.Life ends.
func RunEngine(ctx context.Context, c EngineConfig) error {
	if err := ownProc(); err != nil {
		return err
	}
	root := filepath.Join(c.State, "engine")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := forgetRuns(root); err != nil {
		return err
	}
	// Before the controller, which may use up the descriptors that a listener needs.
	l, err := listen(c.Socket)
	if err != nil {
		return err
	}
	controller, err := newController(ctx, c, root)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	healthv1.RegisterHealthServer(server, health.NewServer())
	controller.Register(server)
	defer context.AfterFunc(ctx, server.Stop)()
	go func() { // ends with the process, which the end of Serve ends
		_, _ = io.Copy(io.Discard, c.Life)
		server.Stop()
	}()
	c.Ready()
	return errors.Join(server.Serve(l), controller.Close())
}

// ownProc gives the process a /proc that shows its own process namespace, if it
// has one. Its mount namespace is its own already.
func ownProc() error {
	if os.Getpid() != 1 {
		return nil
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

func newController(ctx context.Context, c EngineConfig, root string) (*control.Controller, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	w, err := newWorker(ctx, c, root)
	if err != nil {
		return nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(root, "cache.db"))
	if err != nil {
		return nil, err
	}
	history, err := boltutil.SafeOpen(filepath.Join(root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	return control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends:        map[string]frontend.Frontend{},
		CacheManager:     solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		Entitlements:     allowed(w),
		HistoryDB:        history,
		CacheStore:       cache,
		LeaseManager:     w.LeaseManager(),
		ContentStore:     w.ContentStore(),
		GarbageCollect:   w.GarbageCollect,
		GracefulStop:     ctx.Done(),
	})
}

// allowed returns what commands may ask for beyond the usual: nothing, but the
// host's network where all commands run in that one anyway.
func allowed(w worker.Worker) []string {
	if w.Labels()[label.Network] == "host" {
		return []string{entitlements.EntitlementNetworkHost.String()}
	}
	return nil
}

func newWorker(ctx context.Context, c EngineConfig, root string) (*base.Worker, error) {
	network := netproviders.Opt{Mode: c.Network, CNI: cniprovider.Opt{
		Root: root, ConfigPath: appdefaults.DefaultCNIConfigPath, BinaryDir: appdefaults.DefaultCNIBinDir,
	}}
	rootless := userns.RunningInUserNS()
	if rootless && c.Network == "auto" {
		network.Mode = "host"
	}
	o, err := runc.NewWorkerOpt(root, snapshotter(root), rootless, oci.ProcessSandbox, nil, nil,
		network, nil, "runc", "", false, nil, "", "", nil)
	if err != nil {
		return nil, err
	}
	o.ContentStore = containerdsnapshot.NewContentStore(fromStart{o.ContentStore.Store}, o.ContentStore.Namespace())
	o.GCPolicy = gcPolicy(root, c.KeepBytes)
	o.BuildkitVersion = client.BuildkitVersion{Package: version.Package, Version: version.Version, Revision: version.Revision}
	// Required, and never used: images come from the session of who asks.
	o.RegistryHosts = resolver.NewRegistryConfig(nil)
	return base.NewWorker(ctx, o)
}

// snapshotter prefers overlayfs; the plain one copies, and works everywhere.
func snapshotter(root string) runc.SnapshotterFactory {
	if overlayutils.Supported(root) == nil {
		return runc.SnapshotterFactory{Name: "overlayfs", New: func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		}}
	}
	return runc.SnapshotterFactory{Name: "native", New: native.NewSnapshotter}
}

// gcPolicy is BuildKit's own, with the volume's size as its measure unless keep gives one.
func gcPolicy(root string, keep int64) []client.PruneInfo {
	stat, err := disk.GetDiskStat(root)
	if err != nil {
		stat = disk.DiskStat{}
	}
	var c config.GCConfig
	if keep > 0 {
		c.GCMaxUsedSpace = config.DiskSpace{Bytes: keep}
	}
	var out []client.PruneInfo
	for _, r := range config.DefaultGCPolicy(c, stat) {
		out = append(out, client.PruneInfo{
			Filter: r.Filters, All: r.All, KeepDuration: r.KeepDuration.Duration,
			ReservedSpace: r.ReservedSpace.AsBytes(stat),
			MaxUsedSpace:  r.MaxUsedSpace.AsBytes(stat),
			MinFreeSpace:  r.MinFreeSpace.AsBytes(stat),
		})
	}
	return out
}
