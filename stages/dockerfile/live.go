package dockerfile

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// live is which variables something after a place can see.
type live struct {
	names names
	// all says that a program runs, which sees every one.
	all bool
}

func (l *live) sees(name string) bool { return l.all || l.names[name] }

// told is an instruction as the recipe has it.
type told struct {
	line int
	text string
}

// liveness goes backwards through the used stages and returns their instructions
// without the ARGs that nothing can see, those before the first FROM, and the
// names of the arguments that are left.
func (g *graph) liveness() (perStage [][]told, globals []told, args names) {
	args = names{}
	global := &live{names: names{}}
	after := map[*stage]*live{}
	perStage = make([][]told, len(g.used))
	for i := len(g.used) - 1; i >= 0; i-- {
		s := g.used[i]
		global.names.add(s.refs)
		l := after[s]
		if l == nil {
			l = &live{names: names{}}
		}
		for j := len(s.steps) - 1; j >= 0; j-- {
			perStage[i] = append(perStage[i], g.backwards(s.steps[j], l, global, args)...)
		}
		reverse(perStage[i])
		if s.from != nil { // its arguments are there for this one too
			below := after[s.from]
			if below == nil {
				below = &live{names: names{}}
				after[s.from] = below
			}
			below.names.add(l.names)
			below.all = below.all || l.all
		}
	}
	for j := len(g.globals) - 1; j >= 0; j-- {
		globals = append(globals, g.backwards(g.globals[j], global, global, args)...)
	}
	reverse(globals)
	for name := range predefined(g.opts, "") {
		if global.names[name] {
			args[name] = true
		}
	}
	return perStage, globals, args
}

// backwards passes one instruction, coming from its end. It returns the
// instruction, or what is left of an ARG, last first.
func (g *graph) backwards(st *step, l, global *live, args names) []told {
	arg, ok := st.cmd.(*instructions.ArgCommand)
	if !ok {
		l.names.add(st.refs)
		l.all = l.all || st.runs
		if st.trigger { // it is told in the stage below
			return nil
		}
		return []told{{st.line, st.text}}
	}
	var out []told
	for i := len(arg.Args) - 1; i >= 0; i-- {
		kv := arg.Args[i]
		if !l.sees(kv.Key) {
			continue
		}
		args[kv.Key] = true
		l.names.add(st.refs)
		text := "ARG " + kv.Key
		if kv.Value != nil {
			text += "=" + *kv.Value
		} else {
			global.names[kv.Key] = true
		}
		if !st.trigger {
			out = append(out, told{st.line, text})
		}
	}
	return out
}

func reverse(list []told) {
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
}

// isProxy reports whether an argument is one that BuildKit passes on by itself.
func isProxy(name string) bool {
	switch strings.ToUpper(name) {
	case "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY":
		return true
	}
	return false
}
