package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// TestClusterScripts are scripts with a cluster that ledgers live in; KUBECTL is
// its kubectl, KUBECONFIG its administrator, NAMESPACE one that is not there yet,
// and "user NAME FILE" writes a kubeconfig for somebody without any rights.
func TestClusterScripts(t *testing.T) {
	cluster := testbed.NewCluster(t, testbed.ClusterOptions{})
	s := &scripts{ctx: t.Context()}
	var spaces atomic.Int64
	run := time.Now().UnixMilli()
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "cluster"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("KUBECONFIG", cluster.Kubeconfig)
			env.Setenv("NAMESPACE", fmt.Sprintf("cairn-script-%x-%d", run, spaces.Add(1)))
			return s.setup(env)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"git-init": s.gitInit, "registry": s.registry, "fill": s.fill, "json": s.json, "code": s.code, "one-error": s.oneError,
			"kubectl": func(ts *testscript.TestScript, neg bool, args []string) {
				cmd := cluster.Kubectl(s.ctx, args...)
				cmd.Dir = ts.Getenv("WORK")
				out, err := cmd.CombinedOutput()
				if (err == nil) == neg {
					ts.Fatalf("kubectl %v: %v: %s", args, err, out)
				}
				ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "kubectl.out"), out, 0o600))
			},
			"user": func(ts *testscript.TestScript, _ bool, args []string) {
				config, err := cluster.User(args[0])
				ts.Check(err)
				ts.Check(cluster.WriteKubeconfig(ts.MkAbs(args[1]), args[0], config))
			},
		},
	})
}
