package dockerfile

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// maxFile bounds a Dockerfile, in bytes.
const maxFile = 1 << 20

// file is a parsed Dockerfile.
type file struct {
	name    string
	text    []byte
	escape  rune
	globals []*step
	stages  []*stage
}

// stage is one FROM with what follows it.
type stage struct {
	name string
	// base and platform are the words of FROM, expanded by [file.link].
	base, platform string
	// line and end are where FROM begins and ends.
	line, end int
	steps     []*step
	// from is the stage that base names, nil when it names an image or scratch.
	from *stage
	// refs are the variables in the words of FROM.
	refs names
}

// step is one instruction.
type step struct {
	// line and end are where it begins and ends.
	line, end int
	cmd       instructions.Command
	// text is the instruction in its usual form. trigger says that it is one of the
	// stage below, by ONBUILD.
	text    string
	trigger bool
	// refs are the variables that its words name, runs that it runs a program,
	// which sees them all.
	refs names
	runs bool
	needs
	// uses are what the instruction takes files of, the context apart.
	uses []origin
	// outside are values that an ARG has from outside of its build stage.
	outside map[string]string
}

// names is a set of variables.
type names map[string]bool

func (n names) add(more names) {
	for k := range more {
		n[k] = true
	}
}

// syntaxes are the frontends whose language the one that is built in speaks.
var syntaxes = regexp.MustCompile(`^(docker\.io/)?docker/dockerfile:1(\.[0-9]+){0,2}(@sha256:[0-9a-f]{64})?$`)

// parse reads a Dockerfile.
func parse(name string, data []byte) (*file, error) {
	f := &file{name: name, text: data}
	if len(data) > maxFile {
		return nil, f.errorf(0, "", "the file has %d bytes; at most %d are read", len(data), maxFile)
	}
	if ref, _, at, ok := parser.DetectSyntax(data); ok && !syntaxes.MatchString(ref) {
		line := 1
		if len(at) > 0 {
			line = at[0].Start.Line
		}
		const hint = "remove the line, or write # syntax=docker/dockerfile:1"
		if _, after, found := strings.Cut(ref, "@"); found && !strings.HasPrefix(after, "sha256:") {
			return nil, f.errorf(line, hint, "the name of the frontend holds a login, or something else than a digest (sha256:…) after an @")
		}
		return nil, f.errorf(line, hint, "the frontend %q is not supported: only the one that is built in reads Dockerfiles", shorten(ref))
	}
	parsed, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, f.failed(0, err)
	}
	f.escape = parsed.EscapeToken
	for _, n := range parsed.AST.Children {
		if err := f.add(n); err != nil {
			return nil, err
		}
	}
	if len(f.stages) == 0 {
		return nil, f.errorf(0, "begin it with FROM", "the file has no build stage")
	}
	return f, nil
}

// add takes one line of the file.
func (f *file) add(n *parser.Node) error {
	parsed, err := instructions.ParseInstruction(n)
	if err != nil {
		return f.failed(n.StartLine, err)
	}
	if s, ok := parsed.(*instructions.Stage); ok {
		f.stages = append(f.stages, &stage{name: s.Name, base: s.BaseName, platform: s.Platform, line: n.StartLine, end: n.EndLine, refs: names{}})
		return nil
	}
	cmd, ok := parsed.(instructions.Command)
	if !ok {
		return f.errorf(n.StartLine, "", "the instruction %s is not known", n.Value)
	}
	s := &step{line: n.StartLine, end: n.EndLine, cmd: cmd, text: usual(n), refs: names{}}
	_, isArg := cmd.(*instructions.ArgCommand)
	switch {
	case len(f.stages) > 0:
		last := f.stages[len(f.stages)-1]
		last.steps = append(last.steps, s)
	case isArg:
		f.globals = append(f.globals, s)
	default:
		return f.errorf(n.StartLine, "begin the file with FROM; only ARG may stand before it", "%s stands before the first FROM", strings.ToUpper(n.Value))
	}
	return nil
}

// trigger parses what follows ONBUILD, as a step of the stage that begins from
// the one with the instruction.
func (f *file) trigger(line int, expression string) (*step, error) {
	parsed, err := parser.Parse(strings.NewReader(expression))
	if err == nil && len(parsed.AST.Children) != 1 {
		err = fmt.Errorf("ONBUILD wants one instruction")
	}
	if err != nil {
		return nil, f.failed(line, err)
	}
	n := parsed.AST.Children[0]
	cmd, err := instructions.ParseCommand(n)
	if err != nil {
		return nil, f.failed(line, err)
	}
	return &step{line: line, end: line, cmd: cmd, text: usual(n), trigger: true, refs: names{}}, nil
}

// usual writes an instruction in a form of its own: without comments, with the
// keyword in capitals and single blanks between words. The text that a shell gets
// stays as it is: white space may mean something there.
func usual(n *parser.Node) string {
	words := append([]string{strings.ToUpper(n.Value)}, n.Flags...)
	if n.Attributes["json"] {
		var list []string
		for w := n.Next; w != nil; w = w.Next {
			list = append(list, strconv.Quote(w.Value))
		}
		words = append(words, "["+strings.Join(list, ", ")+"]")
	} else {
		plain := plainWords(n)
		if len(plain) > 0 && strings.HasPrefix(plain[0], "--") {
			words = append(words, "--") // which keeps the first word from being a flag
		}
		words = append(words, plain...)
	}
	var b strings.Builder
	b.WriteString(strings.Join(words, " "))
	for _, h := range n.Heredocs {
		fmt.Fprintf(&b, "\n<<%s %d %t %t\n%s", h.Name, h.FileDescriptor, h.Expand, h.Chomp, h.Content)
	}
	return b.String()
}

// plainWords returns the words after a keyword. Names, values and what stands
// between them come as three words.
func plainWords(n *parser.Node) []string {
	var out []string
	switch strings.ToLower(n.Value) {
	case "env", "label":
		for w := n.Next; w != nil && w.Next != nil && w.Next.Next != nil; w = w.Next.Next.Next {
			between := w.Next.Next.Value
			if between == "" {
				between = " "
			}
			out = append(out, w.Value+between+w.Next.Value)
		}
		return out
	}
	for w := n.Next; w != nil; w = w.Next {
		if len(w.Children) > 0 {
			for _, c := range w.Children {
				out = append(out, usual(c))
			}
			continue
		}
		out = append(out, w.Value)
	}
	return out
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
