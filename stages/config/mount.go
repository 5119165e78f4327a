package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// mountDoc is one element of mount.
type mountDoc struct {
	stages.Mount
	at       *yaml.Node
	sections []stages.Kind
	// from is werf's word for a type.
	from string
}

// Patterns of what a mount holds.
const (
	mountIDPattern  = `^[A-Za-z0-9_][A-Za-z0-9_./:@-]*$`
	mountEnvPattern = `^[A-Za-z_][A-Za-z0-9_]*$`
	mountModPattern = `^0?[0-7]{3}$`
	sizePattern     = `^[1-9][0-9]{0,11}[KMG]?$`
)

var (
	mountID   = regexp.MustCompile(mountIDPattern)
	mountEnv  = regexp.MustCompile(mountEnvPattern)
	mountMode = regexp.MustCompile(mountModPattern)
	sizeForm  = regexp.MustCompile(sizePattern)
)

const (
	maxMountID = 128
	// defaultSSH is the agent that is meant where none is named.
	defaultSSH = "default"
	// secretDir is where secrets are shown that name no place.
	secretDir = "/run/secrets/"
)

// Words of a werf.yaml for mount.from.
const (
	werfTmpDir   = "tmp_dir"
	werfBuildDir = "build_dir"
)

// mountObject is one element of mount.
func mountObject() value[mountDoc] {
	type d = mountDoc
	return object[d]{
		title: "mount",
		doc: "Something that commands see while they run and that no layer holds. A **cache** outlives the build; it belongs to the project and its stages storage, on each engine. " +
			"A **tmpfs** is empty for each section. A **secret** and an **ssh** agent are given with `cairn build --secret` and `--ssh`; only their names are part of a stage's identity, so that another value runs nothing again. " +
			"In a werf.yaml, `from: tmp_dir` is a tmpfs and `from: build_dir` a cache.",
		example: "mount:\n- {type: cache, to: /root/.npm, id: npm, sharing: locked}\n- {type: tmpfs, to: /tmp/work, size: 64M}\n- {type: secret, id: npm-token, env: NPM_TOKEN, sections: [install]}\n- {type: secret, id: netrc, to: /root/.netrc, mode: \"0400\"}\n- {type: ssh}\n",
		refused: mountRefusals(),
		finish:  finishMount,
	}.asValue(
		field(keyInfo{name: "type", required: true, doc: "What is shown.", cairnOnly: true}, mountType(), func(t *d, v string, _ *yaml.Node) { t.Type = stages.MountType(v) }),
		field(keyInfo{name: "from", doc: "werf's words for a tmpfs and a cache.", werfOnly: true}, oneOf(werfTmpDir, werfBuildDir), func(t *d, v string, _ *yaml.Node) { t.from = v }),
		field(keyInfo{name: "to", doc: "Path in the image. Needed for a cache and a tmpfs.", otherwise: "for a secret without env /run/secrets/ID; for ssh a path that SSH_AUTH_SOCK names"}, mountTarget(), func(t *d, v string, _ *yaml.Node) { t.To = v }),
		field(keyInfo{name: "id", doc: "Name of the cache, secret or agent. Needed for a secret. At most 128 characters.", otherwise: "for a cache its path, for ssh " + defaultSSH, cairnOnly: true}, mountIDValue(), func(t *d, v string, _ *yaml.Node) { t.ID = v }),
		field(keyInfo{name: "sharing", doc: "What two stages do that want one cache at a time: shared has both use it, private gives the second one another, locked has it wait.", otherwise: string(stages.SharingShared), cairnOnly: true}, sharing(), func(t *d, v string, _ *yaml.Node) { t.Sharing = stages.Sharing(v) }),
		field(keyInfo{name: "size", doc: "Bound of a tmpfs in bytes, or with K, M or G.", otherwise: "that of the engine's system, most often half of its memory", cairnOnly: true}, size(), func(t *d, v int64, _ *yaml.Node) { t.Size = v }),
		field(keyInfo{name: "mode", doc: "Permission bits of the secret's file, which belongs to root.", otherwise: `"0400"`, cairnOnly: true}, fileMode(), func(t *d, v string, _ *yaml.Node) { t.Mode = v }),
		field(keyInfo{name: "env", doc: "Variable that passes the secret to the commands, instead of a file or beside it.", cairnOnly: true}, matching(text(), mountEnv, "name of a variable", "letters, digits and _, beginning with a letter or _"), func(t *d, v string, _ *yaml.Node) { t.Env = v }),
		field(keyInfo{name: "sections", doc: "The sections of shell that see it.", otherwise: "all", cairnOnly: true}, sections(), func(t *d, v []stages.Kind, _ *yaml.Node) { t.sections = v }),
	)
}

func mountType() value[string] {
	return oneOf(string(stages.MountCache), string(stages.MountTmpfs), string(stages.MountSecret), string(stages.MountSSH))
}

func sharing() value[string] {
	return oneOf(string(stages.SharingShared), string(stages.SharingPrivate), string(stages.SharingLocked))
}

func mountIDValue() value[string] {
	return atMost(matching(text(), mountID, "name of a mount", "letters, digits and _ . / : @ -, beginning with a letter, digit or _"), maxMountID)
}

// mountTarget reads a path that a mount may have: what lies on the runtime's own
// mounts would not be seen, or would break them.
func mountTarget() value[string] {
	v := checked(absolute(), "an absolute path", func(p string) (string, error) {
		first, _, _ := strings.Cut(p[1:], "/")
		if slices.Contains([]string{"", "dev", "proc", "sys"}, first) {
			return "", fmt.Errorf("nothing can be mounted on %q", shorten(p))
		}
		return p, nil
	})
	return v
}

func sections() value[[]stages.Kind] {
	var names []string
	for _, k := range commandKinds() {
		names = append(names, string(k))
	}
	one := checked(oneOf(names...), "a section", func(s string) (stages.Kind, error) { return stages.Kind(s), nil })
	return oneOrMany(one, "a section or a list of sections")
}

// size reads a number of bytes, with K, M or G for 1024 to a power.
func size() value[int64] {
	const want = "a number of bytes such as 1048576, 64M or 2G"
	v := checked(plain(), want, func(s string) (int64, error) {
		if !sizeForm.MatchString(s) {
			return 0, fmt.Errorf("%q is no size: want %s", shorten(s), want)
		}
		digits := strings.TrimRight(s, "KMG")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, err
		}
		shift := map[string]int{"K": 10, "M": 20, "G": 30}[s[len(digits):]]
		if n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("%q is too large", shorten(s))
		}
		return n << shift, nil
	})
	v.schema = map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 1}, map[string]any{"type": "string", "pattern": sizePattern},
	}}
	return v
}

// fileMode reads permission bits and writes them with four digits.
func fileMode() value[string] {
	v := checked(plain(), "permission bits such as \"0400\"", func(s string) (string, error) {
		if !mountMode.MatchString(s) {
			return "", fmt.Errorf("%q are no permission bits: want three octal digits, as in \"0400\"", shorten(s))
		}
		return "0" + s[len(s)-3:], nil
	})
	v.schema = map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 0}, map[string]any{"type": "string", "pattern": mountModPattern},
	}}
	return v
}

// mountKeys are the keys that a mount of each type may have beside type and sections.
func mountKeys(t stages.MountType) (may, must []string) {
	switch t {
	case stages.MountCache:
		return []string{"to", "id", "sharing"}, []string{"to"}
	case stages.MountTmpfs:
		return []string{"to", "size"}, []string{"to"}
	case stages.MountSecret:
		return []string{"to", "id", "mode", "env"}, []string{"id"}
	default:
		return []string{"to", "id"}, nil
	}
}

func finishMount(r *reader, n *yaml.Node, present map[string]*yaml.Node, d *mountDoc) {
	d.at = n
	switch d.from {
	case werfTmpDir:
		d.Type = stages.MountTmpfs
	case werfBuildDir:
		d.Type = stages.MountCache
	}
	if d.Type == "" {
		if r.dialect == DialectWerf && present["from"] == nil && present["fromPath"] == nil {
			r.failf(n, "", "the key %q is missing", "from")
		}
		return
	}
	may, must := mountKeys(d.Type)
	for _, key := range []string{"to", "id", "sharing", "size", "mode", "env"} {
		if present[key] != nil && !slices.Contains(may, key) {
			r.failf(present[key], "", "a mount of type %s has no %q", d.Type, key)
		}
		if present[key] == nil && slices.Contains(must, key) {
			r.failf(n, "", "the key %q is missing", key)
		}
	}
	if d.Mode != "" && d.To == "" && d.Env != "" {
		r.failf(present["mode"], `name the path with "to", or remove the key`, "there is no file that the mode is for")
	}
	d.defaults()
}

// defaults writes down what holds where a key is missing: a recipe depends on no default.
func (d *mountDoc) defaults() {
	switch d.Type {
	case stages.MountCache:
		if d.ID == "" {
			d.ID = d.To
		}
		if d.Sharing == "" {
			d.Sharing = stages.SharingShared
		}
	case stages.MountSecret:
		if d.To == "" && d.Env == "" {
			d.To = secretDir + d.ID
		}
		if d.To != "" && d.Mode == "" {
			d.Mode = "0400"
		}
	case stages.MountSSH:
		if d.ID == "" {
			d.ID = defaultSSH
		}
	}
}

// setMounts gives each section of the image its mounts.
func (d *imageDoc) setMounts(r *reader) {
	for i, m := range d.mounts {
		r.in(fmt.Sprintf("mount[%d]", i), func() {
			all := m.sections
			if len(all) == 0 {
				all = commandKinds()
			}
			var used bool
			for _, kind := range all {
				section, runs := d.Shell[kind]
				if !runs {
					if len(m.sections) > 0 {
						r.problems.warnf(r.place(m.at), "", "mount[%d] has no effect on %s: shell has no such section", i, kind)
					}
					continue
				}
				used = true
				if err := clash(section.Mounts, m.Mount); err != nil {
					r.failf(m.at, "", "%s: %s", kind, err)
				}
				section.Mounts = append(section.Mounts, m.Mount)
				d.Shell[kind] = section
			}
			if !used && len(m.sections) == 0 {
				r.problems.warnf(r.place(m.at), "", "mount[%d] has no effect: there are no commands", i)
			}
		})
	}
}

// clash says why a mount cannot be beside others.
func clash(others []stages.Mount, m stages.Mount) error {
	for _, o := range others {
		switch {
		case o.To == m.To && m.To != "":
			return fmt.Errorf("two mounts have the path %q", shorten(m.To))
		case o.Env == m.Env && m.Env != "":
			return fmt.Errorf("two mounts have the variable %s", shorten(m.Env))
		case o.Type == stages.MountSSH && m.Type == stages.MountSSH && o.ID == m.ID:
			return errors.New("the agent is mounted twice")
		}
	}
	return nil
}
