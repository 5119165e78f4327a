package kube

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Account is the service account that a [Manifest] makes.
const Account = "cairn-cleanup"

// Manifest describes a CronJob that cleans up a project's storage, with an account
// that may list what the cluster runs and change nothing of it. What the account needs
// for the ledger is another manifest's.
type Manifest struct {
	// Namespace that the job runs in; it is there.
	Namespace string
	// Project is its name, which that of the job follows from.
	Project string
	// Schedule in cron's five fields.
	Schedule string
	// Image has cairn, git and a shell.
	Image string
	// Repository is the address that git clones the project from, Dir the directory of
	// cairn.yaml in it, "." for the top.
	Repository, Dir string
	// Storage and Ledger are the addresses of the storage and the ledger.
	Storage, Ledger string
}

// The secrets that the job's pod takes, both optional: Docker's config.json, as the
// type kubernetes.io/dockerconfigjson has it, and a file .git-credentials.
const (
	RegistrySecret = "cairn-registry"
	GitSecret      = "cairn-git"
)

var (
	plainName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$`)
	fiveWords = regexp.MustCompile(`^(\S+ ){4}\S+$`)
	errEmpty  = errors.New("it is not given")
)

func (m Manifest) check() error {
	for what, value := range map[string]string{"image": m.Image, "repository": m.Repository, "storage": m.Storage, "ledger": m.Ledger} {
		if value == "" {
			return fmt.Errorf("the %s: %w", what, errEmpty)
		}
	}
	if !plainName.MatchString(m.Project) || !plainName.MatchString(m.Namespace) {
		return fmt.Errorf("project %q in namespace %q: these cannot be names of objects", m.Project, m.Namespace)
	}
	if !fiveWords.MatchString(m.Schedule) {
		return fmt.Errorf("schedule %q: want the five fields of cron with a space between them", m.Schedule)
	}
	return nil
}

// Encode returns the manifest as YAML for "kubectl apply".
func (m Manifest) Encode() (string, error) {
	if err := m.check(); err != nil {
		return "", err
	}
	q := func(s string) string { return fmt.Sprintf("%q", s) }
	return strings.NewReplacer(
		"@NAMESPACE@", m.Namespace, "@JOB@", Account+"-"+m.Project, "@ACCOUNT@", Account, "@SCHEDULE@", q(m.Schedule), "@IMAGE@", q(m.Image),
		"@REPOSITORY@", q(m.Repository), "@DIR@", q(m.Dir), "@STORAGE@", q(m.Storage), "@LEDGER@", q(m.Ledger),
		"@REGISTRYSECRET@", RegistrySecret, "@GITSECRET@", GitSecret,
	).Replace(manifestText), nil
}

// One job at a time, for two would only wait for each other. The claim keeps the index
// of the storage, by which cleanup knows the age of things, and the clone.
const manifestText = `---
# What clusters use is found in all kinds of objects, custom ones too, so the account may
# list everything. It may not read single objects, watch, or write.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: @ACCOUNT@
  namespace: @NAMESPACE@
  labels:
    app.kubernetes.io/managed-by: cairn
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: @ACCOUNT@
  labels:
    app.kubernetes.io/managed-by: cairn
rules:
  # Secrets are among them because Helm keeps its revisions in Secrets; no others are asked for.
  - apiGroups: ["*"]
    resources: ["*"]
    verbs: ["list"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: @NAMESPACE@-@ACCOUNT@
  labels:
    app.kubernetes.io/managed-by: cairn
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: @ACCOUNT@
subjects:
  - kind: ServiceAccount
    name: @ACCOUNT@
    namespace: @NAMESPACE@
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: @JOB@
  namespace: @NAMESPACE@
  labels:
    app.kubernetes.io/managed-by: cairn
spec:
  accessModes: ["ReadWriteOnce"]
  resources:
    requests:
      storage: 5Gi
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: @JOB@
  namespace: @NAMESPACE@
  labels:
    app.kubernetes.io/managed-by: cairn
spec:
  schedule: @SCHEDULE@
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          serviceAccountName: @ACCOUNT@
          restartPolicy: Never
          securityContext:
            runAsNonRoot: true
            runAsUser: 1000
            runAsGroup: 1000
            fsGroup: 1000
          containers:
            - name: cleanup
              image: @IMAGE@
              command: ["sh", "-ec"]
              args:
                - |
                  git config --global credential.helper "store --file=/git/.git-credentials"
                  if [ -d /work/project/.git ]; then
                    git -C /work/project fetch --quiet origin
                    git -C /work/project reset --quiet --hard origin/HEAD
                  else
                    git clone --quiet --no-tags "$REPOSITORY" /work/project
                  fi
                  exec cairn cleanup --dir "/work/project/$DIRECTORY"
              env:
                - {name: HOME, value: /work}
                - {name: DOCKER_CONFIG, value: /docker}
                - {name: REPOSITORY, value: @REPOSITORY@}
                - {name: DIRECTORY, value: @DIR@}
                - {name: CAIRN_CACHE_DIR, value: /work/cache}
                - {name: CAIRN_STAGES_STORAGE, value: @STORAGE@}
                - {name: CAIRN_SYNCHRONIZATION, value: @LEDGER@}
              securityContext:
                allowPrivilegeEscalation: false
                capabilities: {drop: ["ALL"]}
              resources:
                requests: {cpu: 100m, memory: 128Mi}
                limits: {memory: 512Mi}
              volumeMounts:
                - {name: work, mountPath: /work}
                - {name: docker, mountPath: /docker, readOnly: true}
                - {name: git, mountPath: /git, readOnly: true}
          volumes:
            - name: work
              persistentVolumeClaim: {claimName: @JOB@}
            - name: docker
              secret:
                secretName: @REGISTRYSECRET@
                optional: true
                items: [{key: .dockerconfigjson, path: config.json}]
            - name: git
              secret: {secretName: @GITSECRET@, optional: true}
`
