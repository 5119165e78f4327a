package dockerfile

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/cairnbuild/cairn/stages"
)

// scratch is the base that has nothing in it.
const scratch = "scratch"

// origin is what a stage begins from or takes files of: a stage of the file, or
// an image from elsewhere. With neither it is scratch.
type origin struct {
	stage *stage
	base  int // index into bases; -1 for none
}

// graph is the part of a file that a target needs.
type graph struct {
	*file
	opts   Options
	target *stage
	// used are the stages that the target needs, in the order of the file.
	used  []*stage
	bases []Base
	// froms and uses say for each used stage what it begins from and what its
	// instructions take from, in their order.
	froms map[*stage]origin
	uses  map[*stage][]origin
	// platforms are what the used stages are for.
	platforms map[*stage]stages.Platform
	// global is what is known before the first FROM.
	global *env
	lex    *shell.Lex
}

// link finds out what the target needs.
func (f *file) link(o Options) (*graph, error) {
	g := &graph{
		file: f, opts: o, lex: shell.NewLex(f.escape),
		froms: map[*stage]origin{}, uses: map[*stage][]origin{}, platforms: map[*stage]stages.Platform{},
	}
	if err := g.findTarget(); err != nil {
		return nil, err
	}
	if err := g.readGlobals(); err != nil {
		return nil, err
	}
	if err := g.nameBases(); err != nil {
		return nil, err
	}
	need := map[*stage]bool{}
	if err := g.visit(g.target, need, nil); err != nil {
		return nil, err
	}
	for _, s := range f.stages {
		if need[s] {
			g.used = append(g.used, s)
		}
	}
	for _, s := range g.used {
		if err := g.origins(s); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// findTarget finds the stage to build. As for BuildKit, the case of its name does not matter.
func (g *graph) findTarget() error {
	g.target = g.stages[len(g.stages)-1]
	if g.opts.Target == "" {
		return nil
	}
	var known []string
	for i := len(g.stages) - 1; i >= 0; i-- {
		s := g.stages[i]
		if s.name == strings.ToLower(g.opts.Target) {
			g.target = s
			return nil
		}
		if s.name != "" {
			known = append(known, s.name)
		}
	}
	slices.Reverse(known)
	hint := "name the stage with FROM … AS " + g.opts.Target
	if len(known) > 0 {
		hint = "its stages are " + strings.Join(known, ", ")
	}
	return g.errorf(0, hint, "there is no stage %q to build", g.opts.Target)
}

// readGlobals follows the ARGs before the first FROM.
func (g *graph) readGlobals() error {
	g.global = newEnv()
	for k, v := range predefined(g.opts, g.targetName()) {
		g.global.set(k, v, false)
	}
	for k, v := range g.opts.Args {
		if _, ok := g.global.values[k]; ok {
			g.global.set(k, v, false)
		}
	}
	for _, s := range g.globals {
		if err := g.readArg(s, g.global, nil); err != nil {
			return err
		}
	}
	return nil
}

// targetName is the name of the target as TARGETSTAGE tells it: as it was given.
func (g *graph) targetName() string { return cmp.Or(g.opts.Target, g.target.name) }

// predefined are the arguments that BuildKit gives by itself.
func predefined(o Options, target string) map[string]string {
	if target == "" {
		target = "default"
	}
	out := map[string]string{"TARGETSTAGE": target, "BUILDOSVERSION": "", "TARGETOSVERSION": ""}
	for prefix, p := range map[string]stages.Platform{"BUILD": o.BuildPlatform, "TARGET": o.Platform} {
		out[prefix+"PLATFORM"] = string(p)
		out[prefix+"OS"], out[prefix+"ARCH"], out[prefix+"VARIANT"] = p.OS(), p.Architecture(), p.Variant()
	}
	return out
}

// readArg follows an ARG. In a stage, global is what an ARG without a value takes over.
func (g *graph) readArg(s *step, e, global *env) error {
	arg, ok := s.cmd.(*instructions.ArgCommand)
	if !ok {
		return nil
	}
	for _, kv := range arg.Args {
		given, isGiven := g.opts.Args[kv.Key]
		switch {
		case isGiven:
			e.set(kv.Key, given, false)
			s.comes(kv.Key, given)
		case kv.Value != nil:
			v, err := e.expand(g.lex, *kv.Value)
			if err != nil {
				return g.failed(s.line, err)
			}
			asked, doubt := e.take()
			s.refs.add(asked)
			e.set(kv.Key, v, doubt)
		case global != nil:
			if v, ok := global.values[kv.Key]; ok {
				e.set(kv.Key, v, false)
				s.comes(kv.Key, v)
			}
		}
	}
	return nil
}

// comes notes a value from outside of the build stage.
func (st *step) comes(key, value string) {
	if st.outside == nil {
		st.outside = map[string]string{}
	}
	st.outside[key] = value
}

// nameBases expands the words of FROM and finds the stages that they name.
func (g *graph) nameBases() error {
	byName := map[string]*stage{}
	for _, s := range g.stages {
		for _, word := range []*string{&s.base, &s.platform} {
			v, err := g.global.expand(g.lex, *word)
			if err != nil {
				return g.failed(s.line, err)
			}
			if v == "" && *word != "" {
				return g.errorf(s.line, "give the argument a default, or a value in \"args\"", "FROM: %s is empty", *word)
			}
			*word = v
		}
		asked, _ := g.global.take()
		s.refs.add(asked)
		s.from = byName[s.base]
		if s.name != "" {
			byName[s.name] = s
		}
	}
	return nil
}

// named returns the stage that COPY --from or RUN --mount=from names, nil where
// it is an image. Numbers are for COPY alone.
func (g *graph) named(name string, numbers bool) (*stage, bool) {
	if i, err := strconv.Atoi(name); err == nil && numbers {
		if i < 0 || i >= len(g.stages) {
			return nil, false
		}
		return g.stages[i], true
	}
	for i := len(g.stages) - 1; i >= 0; i-- {
		if s := g.stages[i]; s.name != "" && s.name == strings.ToLower(name) {
			return s, true
		}
	}
	return nil, true
}

// visit marks what s needs. path are the stages that need s.
func (g *graph) visit(s *stage, need map[*stage]bool, path []*stage) error {
	if slices.Contains(path, s) {
		return g.errorf(s.line, "", "the stage needs itself")
	}
	if need[s] {
		return nil
	}
	need[s] = true
	if err := g.pullTriggers(s); err != nil {
		return err
	}
	path = append(path, s)
	if s.from != nil {
		if err := g.visit(s.from, need, path); err != nil {
			return err
		}
	}
	for _, st := range s.steps {
		for _, src := range sourcesOf(st.cmd) {
			from, ok := g.named(src.name, src.numbers)
			if !ok {
				return g.errorf(st.line, "stages are counted from 0", "there is no stage %s", src.name)
			}
			if from != nil {
				if err := g.visit(from, need, path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// CheckTriggers looks at what ONBUILD of a base says. A trigger may run programs
// and set config: that comes with the digest of the base. It must not take what a
// plan, which reads no base, has not taken into account.
func CheckTriggers(base string, triggers []string) error {
	f := &file{name: base, escape: '\\'}
	for _, t := range triggers {
		s, err := f.trigger(0, t)
		if err != nil {
			return err
		}
		bad := len(sourcesOf(s.cmd)) > 0
		switch c := s.cmd.(type) {
		case *instructions.ArgCommand, *instructions.AddCommand:
			bad = true
		case *instructions.CopyCommand:
			bad = bad || len(c.SourcePaths) > 0
		case *instructions.RunCommand:
			bad = bad || len(c.FlagsUsed) > 0
		}
		if bad {
			return f.errorf(0, "write the instruction in the Dockerfile, after a FROM of an image without the trigger", "the base has the trigger ONBUILD %s, which takes files, arguments or mounts that no plan can see", shorten(t))
		}
	}
	return nil
}

// MakeFiles reports whether one of some triggers may change files.
func MakeFiles(triggers []string) bool {
	f := &file{escape: '\\'}
	return slices.ContainsFunc(triggers, func(t string) bool {
		s, err := f.trigger(0, t)
		return err != nil || makesFiles(s.cmd)
	})
}

// pullTriggers puts what ONBUILD of the stage below says in front of the steps of s.
func (g *graph) pullTriggers(s *stage) error {
	if s.from == nil {
		return nil
	}
	var triggers []*step
	for _, below := range s.from.steps {
		on, ok := below.cmd.(*instructions.OnbuildCommand)
		if !ok {
			continue
		}
		t, err := g.trigger(below.line, on.Expression)
		if err != nil {
			return err
		}
		triggers = append(triggers, t)
	}
	s.steps = append(triggers, s.steps...)
	return nil
}

// source is a word that names a stage or an image.
type source struct {
	name    string
	numbers bool
}

// sourcesOf returns what an instruction takes files from, the context apart.
func sourcesOf(cmd instructions.Command) []source {
	switch c := cmd.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			return []source{{c.From, true}}
		}
	case *instructions.RunCommand:
		var out []source
		for _, m := range instructions.GetMounts(c) {
			if m.From != "" {
				out = append(out, source{m.From, false})
			}
		}
		return out
	}
	return nil
}

// origins fills in what s begins from and takes from.
func (g *graph) origins(s *stage) error {
	platform := g.opts.Platform
	if s.platform != "" {
		p, err := platforms.Parse(s.platform)
		if err != nil {
			return g.failed(s.line, err)
		}
		if platform, err = stages.ParsePlatform(platforms.Format(platforms.Normalize(p))); err != nil {
			return g.failed(s.line, err)
		}
	}
	from := origin{stage: s.from, base: -1}
	g.platforms[s] = platform
	if s.from == nil {
		var err error
		if from.base, err = g.base(s.base, platform, s.line); err != nil {
			return err
		}
		if from.base < 0 { // nothing is for no platform in particular
			g.platforms[s] = g.opts.Platform
		}
	} else {
		g.platforms[s] = g.platforms[s.from]
	}
	g.froms[s] = from
	for _, st := range s.steps {
		for _, src := range sourcesOf(st.cmd) {
			o := origin{base: -1}
			if o.stage, _ = g.named(src.name, src.numbers); o.stage == nil {
				var err error
				if o.base, err = g.base(src.name, g.opts.Platform, st.line); err != nil {
					return err
				}
			}
			g.uses[s] = append(g.uses[s], o)
			st.uses = append(st.uses, o)
		}
	}
	return nil
}

// base returns the index of an image, -1 for scratch. A name with a login in it is
// refused without being repeated: errors end up in logs that many can read.
func (g *graph) base(name string, p stages.Platform, line int) (int, error) {
	if name == scratch {
		return -1, nil
	}
	if _, after, found := strings.Cut(name, "@"); found && (!strings.HasPrefix(after, "sha256:") || strings.ContainsAny(after, "@/")) {
		return 0, g.errorf(line, "log in with \"docker login\" and leave what stands before the @ out", "the reference holds a login, or something else than a digest (sha256:…) after an @")
	}
	if _, err := reference.ParseNormalizedNamed(name); err != nil {
		return 0, g.errorf(line, "want something like debian:12 or registry.example.com/base@sha256:…", "%q is no image reference", shorten(name))
	}
	i := slices.IndexFunc(g.bases, func(b Base) bool { return b.Reference == name && b.Platform == p })
	if i < 0 {
		i = len(g.bases)
		g.bases = append(g.bases, Base{Reference: name, Platform: p, Line: line})
	}
	return i, nil
}

// root returns the base that a stage stands on at last, -1 for scratch.
func (g *graph) root(s *stage) int {
	for s.from != nil {
		s = s.from
	}
	return g.froms[s].base
}

// write names an origin as recipes do.
func (g *graph) write(o origin) string {
	switch {
	case o.stage != nil:
		return "stage " + strconv.Itoa(slices.Index(g.used, o.stage))
	case o.base >= 0:
		return "base " + strconv.Itoa(o.base)
	default:
		return scratch
	}
}
