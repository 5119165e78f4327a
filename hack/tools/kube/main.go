// Command kubeall is a small Kubernetes for tests in one program: etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and kwok, which
// plays the nodes. Linked once they share what they have in common, which is most
// of each of them. The first argument names the component, and so does the
// program's own name: "kubeall etcd --data-dir …".
package main

import (
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // CronJobs name time zones

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
	kwokconfig "sigs.k8s.io/kwok/pkg/config"
	kwok "sigs.k8s.io/kwok/pkg/kwok/cmd"
	kwoklog "sigs.k8s.io/kwok/pkg/log"
	kwoksignals "sigs.k8s.io/kwok/pkg/utils/signals"
)

func main() {
	args := os.Args
	component := filepath.Base(args[0])
	if component == "kubeall" && len(args) > 1 {
		args = args[1:]
		component = args[0]
	}
	os.Args = args // where the components look for their flags
	os.Exit(run(component))
}

func run(component string) int {
	switch component {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		return cli.Run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		return cli.Run(controllers.NewControllerManagerCommand())
	case "kube-scheduler":
		return cli.Run(scheduler.NewSchedulerCommand())
	case "kubectl":
		return cli.Run(kubectl.NewDefaultKubectlCommand())
	case "kwok":
		return runKwok()
	case "kwok-stages":
		printKwokStages()
	default:
		fmt.Fprintln(os.Stderr, "usage: kubeall etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubectl|kwok|kwok-stages [flags]")
		return 2
	}
	return 0
}

// runKwok does what kwok's own main does.
func runKwok() int {
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.Usage = func() {}
	ctx, logger := kwoklog.InitFlags(kwoksignals.SetupSignalContext(), flags)
	ctx, err := kwokconfig.InitFlags(ctx, flags)
	if err != nil {
		logger.Error("Init config flags", "err", err)
		return 1
	}
	command := withoutVersion(kwok.NewCommand(ctx))
	command.PersistentFlags().AddFlagSet(flags)
	if err := command.ExecuteContext(ctx); err != nil {
		logger.Error("Execute exit", "err", err)
		return 1
	}
	return 0
}

// withoutVersion keeps cobra from reading --version as a boolean flag: the
// Kubernetes components define one of another type for the whole program.
func withoutVersion(c *cobra.Command) *cobra.Command {
	c.Version = ""
	return c
}

// printKwokStages prints the configuration without which kwok does nothing: nodes
// become ready at once, pods run, pods of Jobs complete, deleted pods go.
func printKwokStages() {
	for _, s := range []string{nodefast.DefaultNodeInit, podfast.DefaultPodReady, podfast.DefaultPodComplete, podfast.DefaultPodDelete} {
		fmt.Printf("---\n%s\n", s)
	}
}
