package dockerfile

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/cairnbuild/cairn/stages"
)

// Staged is a Dockerfile in groups of instructions.
type Staged struct {
	// Chains are the build stages that the target needs, in the order of the file;
	// the target is the last one.
	Chains []Chain
	// Config sets the config of the image upon the last chain.
	Config Part
}

// Chain is what a build stage of a file makes.
type Chain struct {
	// Name is that of the build stage, or its number.
	Name     string
	Platform stages.Platform
	// From is the index of the chain that it goes on from, -1 where it begins from
	// Base, an index into [Build.Bases], or from nothing, where that is -1.
	From, Base int
	// Groups may be none: then it has the files of what it begins from.
	Groups []Part
}

// Part is what it takes to make one stage.
type Part struct {
	// Recipe names no stages and no digests of bases yet: Uses and Bases say which.
	Recipe stages.Dockerfile
	// Source has no references of its bases yet.
	Source stages.DockerfileSource
	// Bases are indexes into [Build.Bases] for the recipe's Bases.
	Bases []int
	// Uses stand for the recipe's Uses: chains that have groups, below them or of
	// their own, and -1 for what the recipe has a word for.
	Uses []int
}

// chain is a build stage that is being cut into groups.
type chain struct {
	stage *stage
	from  *chain
	own   []*part
	// rest are instructions that matter to whoever goes on from here.
	rest []*step
}

// part is a group of instructions.
type part struct {
	steps []*step
	// end is the line with which the file ends whose last stage has the files.
	end int
}

// last returns the part that has the files of the chain, nil where a base has.
func (c *chain) last() *part {
	for ; c != nil; c = c.from {
		if n := len(c.own); n > 0 {
			return c.own[n-1]
		}
	}
	return nil
}

// makesFiles reports whether an instruction may change files.
func makesFiles(cmd instructions.Command) bool {
	switch c := cmd.(type) {
	case *instructions.RunCommand, *instructions.CopyCommand, *instructions.AddCommand:
		return true
	case *instructions.WorkdirCommand:
		return c.Path != "/"
	}
	return false
}

// setsState reports whether an instruction may matter to a later one that makes files.
func setsState(cmd instructions.Command) bool {
	switch cmd.(type) {
	case *instructions.ArgCommand, *instructions.EnvCommand, *instructions.ShellCommand,
		*instructions.UserCommand, *instructions.WorkdirCommand:
		return true
	}
	return false
}

// cut divides the used stages into groups. One ends with each RUN, and with what a
// stage has left at its end; what only sets config belongs to none.
func (g *graph) cut() []*chain {
	of := map[*stage]*chain{}
	var out []*chain
	for _, s := range g.used {
		c := &chain{stage: s, from: of[s.from]}
		c.divide()
		of[s] = c
		out = append(out, c)
	}
	return out
}

func (c *chain) divide() {
	var open []*step
	if c.from != nil {
		open = slices.Clone(c.from.rest)
	}
	end := c.stage.end // of the last instruction that makes files
	made := false
	for _, st := range c.stage.steps {
		makes := makesFiles(st.cmd)
		if !makes && !setsState(st.cmd) {
			continue
		}
		open, made = append(open, st), made || makes
		if st.trigger || !makes {
			continue
		}
		end = st.end
		if st.runs {
			c.own = append(c.own, &part{steps: open, end: end})
			open, made = nil, false
		}
	}
	if !made {
		c.rest = open
		return
	}
	c.own = append(c.own, &part{steps: open, end: end})
	for _, st := range open {
		if setsState(st.cmd) {
			c.rest = append(c.rest, st)
		}
	}
}

// staged makes the parts of a file of which all is known; b is the whole.
func (g *graph) staged(b *Build, files *contextOf) (*Staged, error) {
	chains := g.cut()
	d := &divider{graph: g, chains: chains, whole: b, files: files}
	out := &Staged{}
	for i, c := range chains {
		told := Chain{
			Name: c.stage.name, Platform: g.platforms[c.stage],
			From: slices.Index(chains, c.from), Base: g.froms[c.stage].base,
		}
		if told.Name == "" {
			told.Name = strconv.Itoa(slices.Index(g.stages, c.stage))
		}
		if c.from == nil {
			told.From = -1
		}
		for n := range c.own {
			p, err := d.part(i, n)
			if err != nil {
				return nil, err
			}
			told.Groups = append(told.Groups, p)
		}
		out.Chains = append(out.Chains, told)
	}
	out.Config = d.config()
	return out, nil
}

// divider turns parts into recipes.
type divider struct {
	*graph
	chains []*chain
	whole  *Build
	files  *contextOf
}

// source is the beginning of the source of a part of chain c.
func (d *divider) source(c *chain) stages.DockerfileSource {
	src := d.whole.Source
	src.Files, src.Lines, src.GlobalLines = nil, nil, nil
	src.Root = d.root(c.stage)
	return src
}

// args are the given arguments and what tells the name of the target, which the text up
// to the end of a group does not.
func (d *divider) args() map[string]string {
	out := maps.Clone(d.whole.Source.Args)
	if _, given := out[targetStage]; !given {
		out[targetStage] = predefined(d.opts, d.targetName())[targetStage]
	}
	return out
}

// part makes the n-th group of a chain.
func (d *divider) part(which, n int) (Part, error) {
	c := d.chains[which]
	own := c.own[n]
	steps := own.told()
	p := Part{Source: d.source(c)}
	p.Source.Args, p.Source.Target = d.args(), ""
	d.tell(&p, steps)
	at := &stages.DockerfilePart{End: own.end}
	switch below := c.below(n); {
	case below != nil:
		at.Below = below.end
	default:
		at.Begins = true
	}
	at.First, at.Last = c.lines(own)
	var all needs
	for _, st := range steps {
		at.Runs = at.Runs || st.runs
		all.takes = append(all.takes, st.takes...)
		all.secrets, all.ssh = append(all.secrets, st.secrets...), append(all.ssh, st.ssh...)
		for _, o := range st.uses {
			d.use(&p, at, o)
		}
	}
	p.Recipe.Secrets, p.Recipe.SSH = sortedSet(all.secrets), sortedSet(all.ssh)
	if at.Runs {
		p.Recipe.Network, p.Recipe.AddHosts = d.opts.Network, d.opts.AddHosts
	}
	at.Caches, at.OwnCaches = c.caches(n)
	p.Source.Part = at
	return p, d.files.note(all.takes, &p.Recipe, &p.Source)
}

// below returns the group that the n-th one stands on, nil where that is a base.
func (c *chain) below(n int) *part {
	if n > 0 {
		return c.own[n-1]
	}
	return c.from.last()
}

// lines are those of a group's own instructions: what it has from stages below and
// from triggers apart.
func (c *chain) lines(p *part) (first, last int) {
	first, last = c.stage.line, c.stage.end
	begun := false
	for _, st := range p.steps {
		if st.trigger || !slices.Contains(c.stage.steps, st) {
			continue
		}
		if !begun {
			first, begun = st.line, true
		}
		if makesFiles(st.cmd) {
			last = st.end
		}
	}
	return first, max(first, last)
}

// tell writes instructions into a recipe, with the values that they have from outside.
func (d *divider) tell(p *Part, steps []*step) {
	var lines []int
	for _, st := range steps {
		p.Recipe.Instructions = append(p.Recipe.Instructions, st.text)
		lines = append(lines, st.line)
		for k, v := range st.outside {
			if p.Recipe.Args == nil {
				p.Recipe.Args = map[string]string{}
			}
			p.Recipe.Args[k] = v
		}
	}
	p.Source.Lines = [][]int{lines}
	if d.escape != '\\' {
		p.Recipe.Escape = string(d.escape)
	}
}

// use notes that a group takes files of o.
func (d *divider) use(p *Part, at *stages.DockerfilePart, o origin) {
	base := o.base
	if o.stage != nil {
		which := slices.IndexFunc(d.chains, func(c *chain) bool { return c.stage == o.stage })
		base = d.root(o.stage)
		if last := d.chains[which].last(); last != nil {
			at.Uses = append(at.Uses, last.end)
			p.Uses, p.Recipe.Uses = append(p.Uses, which), append(p.Recipe.Uses, "")
			return
		}
	}
	word := scratch
	if base >= 0 {
		i := slices.Index(p.Bases, base)
		if i < 0 {
			i = len(p.Bases)
			p.Bases = append(p.Bases, base)
			p.Recipe.Bases = append(p.Recipe.Bases, stages.DockerfileBase{Platform: d.bases[base].Platform})
		}
		word = "base " + strconv.Itoa(i)
	}
	p.Uses, p.Recipe.Uses = append(p.Uses, -1), append(p.Recipe.Uses, word)
}

// told returns the instructions of a group that its files follow from. A command sees
// all that was set before it. Without one, what is set counts where a later word names
// it.
func (p *part) told() []*step {
	var out []*step
	l := &live{names: names{}}
	owner := false // whether USER matters: WORKDIR makes directories of that user
	for i := len(p.steps) - 1; i >= 0; i-- {
		st := p.steps[i]
		l.all = l.all || st.runs
		switch c := st.cmd.(type) {
		case *instructions.ArgCommand:
			if !slices.ContainsFunc(c.Args, func(kv instructions.KeyValuePairOptional) bool { return l.sees(kv.Key) }) {
				continue
			}
		case *instructions.EnvCommand:
			if !slices.ContainsFunc(c.Env, func(kv instructions.KeyValuePair) bool { return l.sees(kv.Key) }) {
				continue
			}
		case *instructions.ShellCommand:
			if !l.all {
				continue
			}
		case *instructions.UserCommand:
			if !l.all && !owner {
				continue
			}
		case *instructions.WorkdirCommand:
			owner = true
		}
		l.names.add(st.refs)
		out = append(out, st)
	}
	slices.Reverse(out)
	return out
}

// caches reports whether the n-th group of a chain has cache mounts that may hold
// products of files, and whether those files may come from somewhere else than the
// context. The times of such files do not tell whether they are newer: they may come
// from the storage, where times have no meaning.
func (c *chain) caches(n int) (some, own bool) {
	below := c.putBelow(n)
	var put []string
	for _, st := range c.own[n].steps {
		put = append(put, st.puts...)
		if len(st.uses) > 0 {
			below = append(below, st.puts...)
			if st.runs {
				below = append(below, "") // a mount, of which anything may be made
			}
		}
		for _, cache := range st.caches {
			in := func(dir string) bool { return inside(cache, dir) }
			beside := in(st.dir)
			some = some || beside || slices.ContainsFunc(put, in) || slices.ContainsFunc(below, in)
			own = own || len(below) > 0 && (beside || slices.ContainsFunc(below, in))
		}
	}
	return some, own
}

// putBelow returns where files were put by what is below the n-th group.
func (c *chain) putBelow(n int) []string {
	var out []string
	for at, groups := c, c.own[:n]; at != nil; {
		for _, p := range groups {
			for _, st := range p.steps {
				out = append(out, st.puts...)
			}
		}
		if at = at.from; at != nil {
			groups = at.own
		}
	}
	return out
}

// inside reports whether a path may be in a directory, which nobody is said to be in
// when that is the root. What is not known may be anything.
func inside(p, dir string) bool {
	return p == "" || dir == "" || dir != "/" && strings.HasPrefix(p+"/", path.Clean(dir)+"/")
}

// config makes the part that sets the config. Its text has no instruction that makes
// files, nor one that has a later stage make some: what those take is not needed then.
func (d *divider) config() Part {
	c := d.chains[len(d.chains)-1]
	p := Part{Source: d.source(c)}
	at := &stages.DockerfilePart{First: d.target.line, Last: d.target.end, Begins: c.last() == nil}
	var steps []*step
	var gone [][2]int
	for ; c != nil; c = c.from {
		var own []*step
		for _, st := range c.stage.steps {
			switch {
			case c.stage != d.target && d.hasFilesMade(st.cmd), makesFiles(st.cmd) && !isWorkdir(st.cmd):
				if !st.trigger {
					gone = append(gone, [2]int{st.line, st.end})
				}
			default:
				own = append(own, st)
			}
		}
		steps = append(own, steps...)
	}
	for _, st := range steps {
		at.Last = max(at.Last, st.end)
	}
	d.tell(&p, visible(steps))
	p.Source.Text = blanked(p.Source.Text, gone)
	p.Source.Part = at
	return p
}

func isWorkdir(cmd instructions.Command) bool {
	_, ok := cmd.(*instructions.WorkdirCommand)
	return ok
}

// hasFilesMade reports whether an instruction is an ONBUILD of one that makes files.
func (g *graph) hasFilesMade(cmd instructions.Command) bool {
	on, ok := cmd.(*instructions.OnbuildCommand)
	if !ok {
		return false
	}
	st, err := g.trigger(0, on.Expression)
	return err != nil || makesFiles(st.cmd) && !isWorkdir(st.cmd)
}

// visible leaves the ARGs out that none of the other instructions names.
func visible(steps []*step) []*step {
	l := &live{names: names{}}
	var out []*step
	for i := len(steps) - 1; i >= 0; i-- {
		st := steps[i]
		if arg, ok := st.cmd.(*instructions.ArgCommand); ok {
			if !slices.ContainsFunc(arg.Args, func(kv instructions.KeyValuePairOptional) bool { return l.sees(kv.Key) }) {
				continue
			}
		}
		l.names.add(st.refs)
		out = append(out, st)
	}
	slices.Reverse(out)
	return out
}

// blanked empties lines, counted from 1.
func blanked(text []byte, gone [][2]int) []byte {
	lines := bytes.SplitAfter(bytes.Clone(text), []byte("\n"))
	for _, r := range gone {
		for i := r[0] - 1; i < r[1] && i < len(lines); i++ {
			lines[i] = []byte("\n")
		}
	}
	return bytes.Join(lines, nil)
}
