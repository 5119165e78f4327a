package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/deploy/ci"
)

type ciEnvOptions struct {
	as, file     string
	dockerConfig string
	protected    []string
	user         string
	// password is the name of the variable that holds it.
	password string
}

func (a *app) ciEnvCommand() *cobra.Command {
	var o ciEnvOptions
	cmd := &cobra.Command{
		Use:   "ci-env [SYSTEM]",
		Short: "Derive the settings of a build from the environment of a CI job",
		Long: `Ci-env finds out which CI system runs the job, and prints assignments: where stages
live, where runners coordinate, a Docker configuration with the job's login to the
registry, and what the run is about. SYSTEM is gitlab, github, gitea, forgejo,
jenkins, bitbucket, azure, teamcity or generic, where it is not to be found out.

A run of a protected branch uses the project's own storage and ledger. Any other
reads the project's storage and writes to a repository and a ledger beside it, with
"-unprotected" or "-fork" at the end of their names. This keeps honest runs apart;
against others, let only protected runs have credentials for the project's.

Names of branches and tags come from whoever may push: in every format they are
data. The password goes into a file that only its user may read, and nowhere else.
docs/ci has a pipeline for each system.`,
		Example: `  # in a shell; unlike eval, this notices a failure
  cairn ci-env --as-file "$TMPDIR/cairn.env"
  . "$TMPDIR/cairn.env"

  # for later steps of a job of GitHub Actions
  cairn ci-env --as github-env --as-file "$GITHUB_ENV"

  # with a registry that does not come with the CI system
  cairn ci-env jenkins --stages-storage registry.example.com/shop/stages \
    --registry-user robot --registry-password-env REGISTRY_PASSWORD --protected main --protected 'refs/tags/v*'`,
		Args:      usageArgs(cobra.MaximumNArgs(1)),
		ValidArgs: words(ci.Systems()),
		RunE:      func(cmd *cobra.Command, args []string) error { return a.ciEnv(cmd, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.as, "as", string(ci.Shell), "`FORMAT` of the assignments: "+strings.Join(words(ci.Formats()), ", "))
	f.StringVar(&o.file, "as-file", "", "`FILE` to write them to in place of standard output, for its user alone; github-env is appended to it")
	f.StringVar(&o.dockerConfig, "docker-config", "", "`DIRECTORY` for the Docker configuration with the login (default a new one, where there is a login)")
	f.StringSliceVar(&o.protected, "protected", nil, "a `BRANCH` whose runs are trusted, or a reference such as refs/tags/v*; * is any characters; may be repeated (default what the CI system says, else main and master)")
	f.StringVar(&o.user, "registry-user", "", "`NAME` to log in to the registry with (default the one that comes with the CI system)")
	f.StringVar(&o.password, "registry-password-env", "", "`VARIABLE` that holds the password to it")
	complete(cmd, "as", words(ci.Formats())...)
	return cmd
}

// words are the texts of named strings.
func words[S ~string](list []S) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func (a *app) ciEnv(cmd *cobra.Command, o ciEnvOptions, args []string) error {
	if !cmd.Flags().Changed("as") && a.output == formatJSON {
		o.as = string(ci.JSON)
	}
	if !slices.Contains(ci.Formats(), ci.Format(o.as)) {
		return usagef(cmd, "--as %s: want %s", o.as, strings.Join(words(ci.Formats()), ", "))
	}
	a.script = o.as != string(ci.JSON)
	found, err := ci.Derive(a.ciSurroundings(), a.ciRequest(cmd, o, args))
	if err != nil {
		return explainDerive(cmd, err)
	}
	if found.Login != nil {
		dir, err := a.writeLogin(o.dockerConfig, found)
		if err != nil {
			return err
		}
		found.Assign("DOCKER_CONFIG", dir)
	}
	text, left, err := found.Encode(ci.Format(o.as), a.host.Rand)
	if err != nil {
		return explainDerive(cmd, err)
	}
	for _, note := range found.Notes {
		a.warnf("%s", note)
	}
	if len(left) > 0 {
		a.warnf("left out, because --as %s cannot hold them: %s", o.as, list(left))
	}
	if o.file == "" {
		_, err = a.Out.Write(text)
	} else {
		err = writeAssignments(o, text)
	}
	if err != nil {
		return fmt.Errorf("write the assignments: %w", err)
	}
	return nil
}

func (a *app) ciSurroundings() ci.Surroundings {
	return ci.Surroundings{
		Getenv:   a.getenv,
		ReadFile: readBounded,
		Ledger: func(storage string) string {
			s := a.settings
			s.Storage, s.Synchronization = storage, ""
			return s.LedgerAddress(a.host)
		},
	}
}

func (a *app) ciRequest(cmd *cobra.Command, o ciEnvOptions, args []string) ci.Request {
	q := ci.Request{
		Secondary: a.settings.Secondary, Synchronization: a.settings.Synchronization,
		Protected: o.protected, User: o.user,
	}
	if len(args) > 0 {
		q.System = ci.System(args[0])
	}
	if cmd.Flags().Changed("stages-storage") { // else it is the default
		q.Storage = a.settings.Storage
	}
	if o.password != "" {
		if q.Password = a.getenv(o.password); q.Password == "" {
			a.warnf("the variable of --registry-password-env is not set: there is no login with it")
		}
	}
	return q
}

// explainDerive makes what the caller can mend a usage error.
func explainDerive(cmd *cobra.Command, err error) error {
	var system *ci.SystemError
	var value *ci.ValueError
	switch {
	case errors.As(err, &system):
		return &usageError{cmd.CommandPath(), err}
	case errors.Is(err, ci.ErrUnknown):
		return &hintedError{&usageError{cmd.CommandPath(), err}, "name it, or say what the run is about in CAIRN_CI_BRANCH and the like and use \"cairn ci-env generic\"; docs/ci/README.md has them"}
	case errors.As(err, &value):
		return &hintedError{&usageError{cmd.CommandPath(), err}, value.Hint()}
	}
	return err
}

// writeLogin writes a Docker configuration with the login, beside what the one in
// force has, and returns its directory.
func (a *app) writeLogin(dir string, found ci.Result) (string, error) {
	existing, err := readBounded(a.dockerConfigFile(), ci.MaxDockerConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &loginError{err}
	}
	text, err := found.Login.Config(existing)
	if err == nil {
		dir, err = privateDir(dir, found.Temp)
	}
	if err == nil {
		err = replacePrivate(filepath.Join(dir, "config.json"), text)
	}
	if err != nil {
		return "", &loginError{err}
	}
	return dir, nil
}

// dockerConfigFile is the one in force.
func (a *app) dockerConfigFile() string {
	for _, name := range []string{"DOCKER_CONFIG", "WERF_DOCKER_CONFIG"} {
		if dir := a.getenv(name); dir != "" {
			return filepath.Join(dir, "config.json")
		}
	}
	return filepath.Join(daemonctl.Home(a.getenv), ".docker", "config.json")
}

// privateDir makes a directory for the user alone: the one that is named, or a new
// one in temp. One that is there may be used when it is as private.
func privateDir(dir, temp string) (string, error) {
	if dir == "" {
		if _, err := os.Stat(temp); err != nil {
			temp = "" // the system's
		}
		return os.MkdirTemp(temp, "cairn-docker-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err = os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
		return dir, err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if !st.IsDir() || !onlyMine(st) {
		return "", fmt.Errorf("%s is there, and is no directory that is its user's alone", dir)
	}
	return dir, nil
}

// loginError says that the Docker configuration could not be written.
type loginError struct{ err error }

func (e *loginError) Error() string { return fmt.Sprintf("write the login to the registry: %v", e.err) }
func (e *loginError) Unwrap() error { return e.err }
func (e *loginError) Hint() string {
	return "name a directory with --docker-config that can be made, and check the Docker configuration in force"
}

// writeAssignments replaces a file, or adds to the one of GITHUB_ENV, which other
// steps write to as well.
func writeAssignments(o ciEnvOptions, text []byte) error {
	if o.as != string(ci.GitHubEnv) {
		return replacePrivate(o.file, text)
	}
	f, err := os.OpenFile(o.file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// replacePrivate writes a file whole or not at all, for its user alone.
func replacePrivate(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".cairn-") // of mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path) // before it is opened: a pipe would be waited for
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, limit)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
