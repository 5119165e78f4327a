package engine

import (
	"strconv"

	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
)

// secretMode are the permission bits of a secret's file that names none.
const secretMode = 0o400

// mounts turns the mounts of a job's commands into the engine's.
func mounts(j *Job) []llb.RunOption {
	out := make([]llb.RunOption, 0, len(j.Commands.Mounts))
	for _, m := range j.Commands.Mounts {
		switch m.Type {
		case stages.MountCache:
			out = append(out, llb.AddMount(m.To, llb.Scratch(), llb.AsPersistentCacheDir(cacheID(j, m), sharing(m.Sharing))))
		case stages.MountTmpfs:
			out = append(out, llb.AddMount(m.To, llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(m.Size))))
		case stages.MountSecret:
			out = append(out, secret(m))
		case stages.MountSSH:
			out = append(out, agent(m))
		}
	}
	return out
}

// cacheID is what the engine knows a cache by. It is a digest because an engine
// lists such names to whoever may ask it.
func cacheID(j *Job, m stages.Mount) string {
	return "cairn-" + digest.FromString(j.CacheScope+"\x00"+m.ID).Encoded()
}

func sharing(s stages.Sharing) llb.CacheMountSharingMode {
	switch s {
	case stages.SharingPrivate:
		return llb.CacheMountPrivate
	case stages.SharingLocked:
		return llb.CacheMountLocked
	default:
		return llb.CacheMountShared
	}
}

func secret(m stages.Mount) llb.RunOption {
	var opts []llb.SecretOption
	if m.Env != "" {
		opts = append(opts, llb.SecretAsEnvName(m.Env))
	}
	if m.To == "" {
		return llb.AddSecretWithDest(m.ID, nil, opts...)
	}
	return llb.AddSecretWithDest(m.ID, &m.To, append(opts, llb.SecretFileOpt(0, 0, mode(m)))...)
}

func mode(m stages.Mount) int {
	bits, err := strconv.ParseUint(m.Mode, 8, 9)
	if err != nil {
		return secretMode
	}
	return int(bits)
}

func agent(m stages.Mount) llb.RunOption {
	opts := []llb.SSHOption{llb.SSHID(m.ID)}
	if m.To != "" {
		opts = append(opts, llb.SSHSocketTarget(m.To))
	}
	return llb.AddSSHSocket(opts...)
}
