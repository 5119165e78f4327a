package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
)

// Local is the address of a storage or a ledger on this host.
const Local = ":local"

// Settings are what the command line and the environment say about where things are.
type Settings struct {
	// Dir is the project's directory.
	Dir string
	// Dev plans the work tree instead of the commit.
	Dev bool
	// Storage is a repository address or [Local].
	Storage string
	// Secondary is the address of a storage that is only read; may be empty.
	Secondary string
	// CacheStorage is the address of a repository near by from which blobs of a
	// registry are read first; may be empty.
	CacheStorage string
	// Synchronization is the ledger's address; empty is the storage's default, see
	// [Settings.LedgerAddress].
	Synchronization string
	// Engines are [PLATFORM=]ADDRESS of BuildKits; where none fits a platform, the
	// host's own daemon is used.
	Engines []string
	// SynchronizationTimeout is for how long a ledger may be away; 0 is the default
	// of lock.Options.
	SynchronizationTimeout time.Duration
	// RegistryCA is a file of certificates to trust besides the system's.
	RegistryCA string
	// AllowFileURLs lets the configuration name repositories of this machine.
	AllowFileURLs bool
	// Quick stands in for a configuration.
	Quick Quick
	// Follow has runs follow a switch of the project to another storage and ledger.
	Follow bool
	// CacheDir and StateDir replace the user's directories.
	CacheDir, StateDir string

	followed followed
}

// Host is this process's surroundings: what a library takes as parameters.
type Host struct {
	Getenv func(string) string
	Now    func() time.Time
	// Began is when this process began its work.
	Began time.Time
	Rand  io.Reader
	Log   *zap.Logger
	// Program is the path of the running program.
	Program string
	// Version of this build.
	Version string
	// Late is zero but in tests.
	Late Late
}

// Late bounds when something that was sent can still arrive. All who use a ledger
// must have the same; zero values are the protocol's own. No setting changes it.
type Late struct {
	// Delta and Guard are those of [synchronization.Options].
	Delta, Guard time.Duration
}

// NewHost returns the real surroundings.
func NewHost(log *zap.Logger, version string) Host {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return Host{Getenv: os.Getenv, Now: time.Now, Began: time.Now(), Rand: rand.Reader, Log: log, Program: program, Version: version}
}

// cacheDir is where the local storage and results not yet published lie.
func (s Settings) cacheDir(h Host) (string, error) {
	return daemonctl.UserDir(s.CacheDir, h.Getenv("XDG_CACHE_HOME"), daemonctl.Home(h.Getenv), ".cache")
}

// stagesDir is the layout of a project's local stages.
func (s Settings) stagesDir(h Host, project string) (string, error) {
	dir, err := s.cacheDir(h)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, hostcache.StagesDir, project), nil
}

// stateDir is where local ledgers of registries lie.
func (s Settings) stateDir(h Host) (string, error) {
	return daemonctl.UserDir(s.StateDir, h.Getenv("XDG_STATE_HOME"), daemonctl.Home(h.Getenv), filepath.Join(".local", "state"))
}

// daemonPaths are those of the host's daemon, or of one of its own below a given
// state directory.
func (s Settings) daemonPaths(h Host) daemonctl.Paths {
	if s.StateDir == "" {
		return daemonctl.DefaultPaths(daemonctl.UserID(os.Getuid(), h.Getenv), h.Getenv)
	}
	return daemonctl.Paths{
		State:  filepath.Join(s.StateDir, "daemon"),
		Socket: filepath.Join(s.StateDir, "run", "cairnd.sock"),
	}
}

// shortHash tells directories of different addresses apart.
func shortHash(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:6])
}

// inventoryIndex is the file with what is known of the manifests of the storage at
// an address; a project's local one has a directory of its own.
func (s Settings) inventoryIndex(h Host, project, address string) (string, error) {
	dir, err := s.cacheDir(h)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "inventory", project+"-"+shortHash(address)), nil
}
