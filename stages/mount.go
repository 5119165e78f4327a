package stages

// MountType says what a [Mount] shows.
type MountType string

// The types of mounts.
const (
	// MountCache is a directory that outlives the run, for what package managers
	// and compilers keep. It belongs to one project and one stages storage.
	MountCache MountType = "cache"
	// MountTmpfs is an empty directory in memory.
	MountTmpfs MountType = "tmpfs"
	// MountSecret is a value that whoever builds gives by name.
	MountSecret MountType = "secret"
	// MountSSH is the socket of an SSH agent that whoever builds gives by name.
	MountSSH MountType = "ssh"
)

// Sharing says what happens when two stages want one cache at the same time.
type Sharing string

// The ways to share a cache.
const (
	SharingShared  Sharing = "shared"  // both have it
	SharingPrivate Sharing = "private" // the second one gets another
	SharingLocked  Sharing = "locked"  // the second one waits
)

// Mount is something that commands see while they run and that no layer holds.
// What a recipe has of it are names: neither the content of a cache nor the
// value of a secret is part of a stage's identity.
type Mount struct {
	// Env passes a secret as the environment variable of that name.
	Env string `json:"env,omitempty"`
	// ID names a cache, a secret or an agent; empty for a tmpfs.
	ID string `json:"id,omitempty"`
	// Mode holds the permission bits of a secret's file as octal digits; empty is 0400.
	Mode string `json:"mode,omitempty"`
	// Sharing is set for caches.
	Sharing Sharing `json:"sharing,omitempty"`
	// Size bounds a tmpfs, in bytes; 0 means the engine's own bound.
	Size int64 `json:"size,omitempty"`
	// To is the absolute, clean path of the mount. It is empty for a secret that is
	// a variable only, and may be for an agent, which SSH_AUTH_SOCK leads to.
	To   string    `json:"to,omitempty"`
	Type MountType `json:"type"`
}

// IsGiven reports whether the mount needs something that whoever builds has to give.
func (m Mount) IsGiven() bool { return m.Type == MountSecret || m.Type == MountSSH }
