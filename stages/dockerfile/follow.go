package dockerfile

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/system"
)

// needs is what an instruction asks for beside stages and images.
type needs struct {
	takes        []take
	secrets, ssh []string
	// caches are the places of cache mounts, puts is where files are put that were
	// not made by a command: "" for one that is not known. dir is the working directory.
	caches, puts []string
	dir          string
}

// all is what the target asks for.
func (g *graph) all() *needs {
	n := &needs{}
	for _, s := range g.used {
		for _, st := range s.steps {
			n.takes = append(n.takes, st.takes...)
			n.secrets = append(n.secrets, st.secrets...)
			n.ssh = append(n.ssh, st.ssh...)
		}
	}
	return n
}

// take is what an instruction takes of the context.
type take struct {
	line int
	// word is the path as written, path the cleaned one without a leading slash,
	// which may be a pattern. all means the whole context.
	word, path string
	all        bool
}

// follow goes through the instructions of the used stages as a build does, keeps
// account of the variables and notes what each instruction needs.
func (g *graph) follow() error {
	envs := map[*stage]*env{}
	for _, s := range g.used {
		e := newEnv()
		if s.from != nil {
			e = envs[s.from].clone()
		}
		// An image from elsewhere may bring variables, of which nothing is known here.
		e.open = e.open || s.from == nil && g.froms[s].base >= 0
		if s.from == nil && !e.open {
			e.set("PATH", system.DefaultPathEnvUnix, false)
			e.dir = "/"
		}
		for _, st := range s.steps {
			if err := g.step(st, e); err != nil {
				return err
			}
		}
		envs[s] = e
	}
	return nil
}

func (g *graph) step(st *step, e *env) error {
	if _, ok := st.cmd.(*instructions.ArgCommand); ok {
		return g.readArg(st, e, g.global)
	}
	if err := g.expand(st, e); err != nil {
		return g.failed(st.line, err)
	}
	asked, doubt := e.take()
	st.refs.add(asked)
	switch c := st.cmd.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			e.set(kv.Key, kv.Value, doubt)
		}
	case *instructions.WorkdirCommand:
		e.dir = e.at(c.Path, doubt)
	case *instructions.CopyCommand:
		st.puts = []string{e.at(c.DestPath, doubt)}
		for _, w := range c.SourcePaths {
			if err := g.checkAddress(st.line, "COPY", w); err != nil {
				return err
			}
		}
		if c.From == "" {
			st.paths(st.line, c.SourcePaths, c.Parents, doubt)
		}
	case *instructions.AddCommand:
		st.puts = []string{e.at(c.DestPath, doubt)}
		return g.added(st, c, doubt)
	case *instructions.RunCommand:
		st.runs, st.dir = true, e.dir
		return g.run(st, c, e, doubt)
	}
	return nil
}

// expand replaces the variables in the words of an instruction, where it has them
// replaced.
func (g *graph) expand(st *step, e *env) error {
	word := func(w string) (string, error) { return e.expand(g.lex, w) }
	if c, ok := st.cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := c.Expand(word); err != nil {
			return err
		}
	}
	if c, ok := st.cmd.(instructions.SupportsSingleWordExpansionRaw); ok {
		raw := shell.NewLex('\\')
		raw.SkipProcessQuotes = true
		return c.ExpandRaw(func(w string) (string, error) { return e.expand(raw, w) })
	}
	if c, ok := st.cmd.(*instructions.ExposeCommand); ok {
		for _, p := range c.Ports {
			if _, err := word(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *needs) paths(line int, words []string, parents, doubt bool) {
	for _, w := range words {
		t := take{line: line, word: w, all: doubt, path: w}
		if parents {
			// The pivot says only what is made below the target.
			t.path = beforeDoubleStar(strings.Replace(w, "/./", "/", 1))
		}
		t.path = clean(t.path)
		t.all = t.all || t.path == ""
		n.takes = append(n.takes, t)
	}
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// beforeDoubleStar cuts a pattern off in front of the first "**".
func beforeDoubleStar(p string) string {
	parts := strings.Split(p, "/")
	if i := slices.IndexFunc(parts, func(s string) bool { return strings.Contains(s, "**") }); i >= 0 {
		parts = parts[:i]
	}
	return strings.Join(parts, "/")
}

var fullCommit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// added looks at ADD, whose sources may be elsewhere.
func (g *graph) added(st *step, c *instructions.AddCommand, doubt bool) error {
	line := st.line
	var local []string
	for _, w := range c.SourcePaths {
		if err := g.checkAddress(line, "ADD", w); err != nil {
			return err
		}
		ref, isGit, err := dfgitutil.ParseGitRef(w)
		switch {
		case isGit && err == nil && !ref.IndistinguishableFromLocal:
			if !fullCommit.MatchString(c.Checksum) && !fullCommit.MatchString(ref.Checksum) && !fullCommit.MatchString(ref.Ref) || doubt {
				return g.errorf(line, "name a full commit: ADD "+shown(ref.Remote)+"#COMMIT, or --checksum=COMMIT", "ADD %s: what a branch or tag of another repository holds may change, so the result has no identity", shown(w))
			}
		case strings.HasPrefix(w, "http://"), strings.HasPrefix(w, "https://"):
			if c.Checksum == "" || doubt {
				return g.errorf(line, "write ADD --checksum=sha256:… "+shown(w), "ADD %s: what is at an address may change, so the result has no identity without a checksum", shown(w))
			}
		default:
			local = append(local, w)
		}
	}
	st.paths(line, local, false, doubt)
	return nil
}

// checkAddress refuses an address with a login in it, without repeating it: errors
// end up in logs that many can read, and recipes in the storage. Over SSH there is
// always a name, which is none.
func (g *graph) checkAddress(line int, keyword, word string) error {
	scheme, rest, ok := strings.Cut(word, "://")
	if !ok {
		return nil
	}
	u, err := url.Parse(word)
	switch authority, _, _ := strings.Cut(rest, "/"); {
	case err != nil && strings.Contains(authority, "@"):
		return g.errorf(line, "write % signs as %25, and no login", "%s: the address cannot be read", keyword)
	case err != nil || u.User == nil:
		return nil
	case scheme == "ssh":
		if _, has := u.User.Password(); !has {
			return nil
		}
	}
	return g.errorf(line, "leave what stands before the @ out; fetch what needs a login in a RUN with a secret (--mount=type=secret)", "%s: the address holds a login", keyword)
}

// shown is an address as messages have it: what a query holds may be a secret.
func shown(address string) string {
	before, _, cut := strings.Cut(address, "?")
	if cut {
		return shorten(before) + "?…"
	}
	return shorten(before)
}

// run looks at the mounts of RUN.
func (g *graph) run(st *step, c *instructions.RunCommand, e *env, doubt bool) error {
	if instructions.GetSecurity(c) == instructions.SecurityInsecure {
		return g.errorf(st.line, "remove --security=insecure", "RUN --security=insecure is not supported: the engine gives no such rights")
	}
	if len(instructions.GetDevices(c)) > 0 {
		return g.errorf(st.line, "remove --device", "RUN --device is not supported: the result would follow from the machine")
	}
	for _, m := range instructions.GetMounts(c) {
		st.mount(m, e, doubt)
	}
	for _, id := range st.secrets {
		if !slices.Contains(g.opts.Secrets, id) {
			return g.errorf(st.line, "add it to \"secrets\" of the image", "RUN uses the secret %q, which the image does not name", id)
		}
	}
	for _, id := range st.ssh {
		if !slices.Contains(g.opts.SSH, id) {
			return g.errorf(st.line, "add it to \"ssh\" of the image", "RUN uses the ssh agent %q, which the image does not name", id)
		}
	}
	return nil
}

// mount notes what a mount of RUN asks for.
func (st *step) mount(m *instructions.Mount, e *env, doubt bool) {
	switch m.Type {
	case instructions.MountTypeBind:
		if m.From != "" {
			return
		}
		st.paths(st.line, []string{m.Source}, false, doubt)
		if last := &st.takes[len(st.takes)-1]; last.path != "" {
			last.path = literal(last.path)
		}
	case instructions.MountTypeCache:
		st.caches = append(st.caches, e.at(m.Target, doubt))
	case instructions.MountTypeSecret:
		st.secrets = append(st.secrets, secretID(m))
	case instructions.MountTypeSSH:
		st.ssh = append(st.ssh, sshID(m))
	}
}

// secretID is the id that BuildKit takes for a secret mount.
func secretID(m *instructions.Mount) string {
	switch {
	case m.Source != "":
		return m.Source
	case m.CacheID != "":
		return m.CacheID
	default:
		return path.Base(m.Target)
	}
}

func sshID(m *instructions.Mount) string {
	if m.CacheID != "" {
		return m.CacheID
	}
	return "default"
}

// literal escapes what would be special in a pattern.
func literal(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}
