package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cleanup/kube"
	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
)

type cleanupManifestOptions struct {
	namespace string
	job       kube.Manifest
}

func (a *app) cleanupManifestCommand() *cobra.Command {
	var o cleanupManifestOptions
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Print a CronJob that cleans up, with the rights that it needs",
		Long: `Manifest prints, for kubectl apply, a CronJob that runs "cairn cleanup" on a schedule, a
service account that may list what the cluster runs and use the ledger, and a volume
claim that keeps the index of the storage between runs. The storage and the ledger are
those of --stages-storage and --synchronization. No cluster is asked.

The pod takes two secrets of its namespace where they are there: "` + kube.RegistrySecret + `" of the
type kubernetes.io/dockerconfigjson, with credentials that may delete, and "` + kube.GitSecret + `" with
a file .git-credentials for git.`,
		Example: `  cairn cleanup manifest --git-repository https://git.example.com/shop.git \
    --image registry.example.com/tools/cairn:v1 \
    --stages-storage registry.example.com/shop/stages | kubectl apply -f -`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := a.cleanupManifest(o)
			if err != nil {
				return &usageError{cmd.CommandPath(), err}
			}
			_, err = fmt.Fprint(a.Out, text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", "", "the `NAMESPACE` of the job (default that of --synchronization, or cairn-synchronization)")
	variables.Apart(f.Lookup("namespace"), "cleanup-namespace")
	f.StringVar(&o.job.Project, "project", "cairn", "`NAME` that the job's name ends with")
	f.StringVar(&o.job.Schedule, "schedule", "30 3 * * *", "when it runs, in the five `FIELDS` of cron")
	f.StringVar(&o.job.Image, "image", "", "`IMAGE` with cairn, git and a shell")
	variables.Apart(f.Lookup("image"), "cleanup-image")
	f.StringVar(&o.job.Repository, "git-repository", "", "`ADDRESS` that git clones the project from")
	f.StringVar(&o.job.Dir, "git-directory", ".", "`DIRECTORY` of cairn.yaml in it")
	return cmd
}

func (a *app) cleanupManifest(o cleanupManifestOptions) (string, error) {
	if a.settings.Storage == wire.Local {
		return "", fmt.Errorf("%s is on this host: name a registry with --stages-storage", wire.Local)
	}
	if !filepath.IsLocal(o.job.Dir) {
		return "", fmt.Errorf("--git-directory %s: want a path inside the repository", o.job.Dir)
	}
	return a.settings.CleanupManifest(o.namespace, o.job)
}
