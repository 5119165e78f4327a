package config

import (
	"fmt"
	"strconv"
	"text/template"
	"text/template/parse"
)

// mark puts marks into the templates of t that have none yet; they come from the
// given file.
func (r *renderer) mark(t *template.Template, file int) error {
	for _, one := range t.Templates() {
		if one.Tree == nil || one.Root == nil || r.marked[one.Tree] {
			continue
		}
		r.marked[one.Tree] = true
		m := marker{r: r, file: file}
		// Output of the main template is what the source map is about; it is the
		// only one that begins at the file's own root.
		m.main = file == 0 && one.Name() == r.in.Path
		if err := m.list(one.Root); err != nil {
			return err
		}
	}
	return nil
}

// marker rewrites one tree.
type marker struct {
	r    *renderer
	file int
	main bool
	// depth is how many blocks are open.
	depth int
}

// nestingError says that a template is nested too deep at an offset. Together with
// the bound on includes, the bound on nesting keeps the stack small.
type nestingError struct{ offset int }

func (*nestingError) Error() string {
	return fmt.Sprintf("template: blocks or parentheses are nested more than %d levels deep", maxNesting)
}

// mark is a place in a template.
type mark struct {
	at position
	// verbatim marks stand before text, others before actions.
	verbatim bool
	// main marks stand in the main template, whose output is mapped.
	main bool
}

// list puts a mark in front of each node of l and goes down into its branches.
func (m marker) list(l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	if m.depth++; m.depth > maxNesting {
		return &nestingError{int(l.Position())}
	}
	nodes := make([]parse.Node, 0, 2*len(l.Nodes))
	for _, n := range l.Nodes {
		before, err := m.node(n)
		if err != nil {
			return err
		}
		if n, err = m.rewrite(n); err != nil {
			return err
		}
		nodes = append(nodes, before, n)
	}
	l.Nodes = nodes
	return nil
}

func (m marker) rewrite(n parse.Node) (parse.Node, error) {
	switch n := n.(type) {
	case *parse.ActionNode:
		return n, checkPipe(n.Pipe, 0)
	case *parse.IfNode:
		return n, m.branches(&n.BranchNode)
	case *parse.WithNode:
		return n, m.branches(&n.BranchNode)
	case *parse.RangeNode:
		if err := m.branches(&n.BranchNode); err != nil {
			return nil, err
		}
		// An empty loop has no marks of its own that would count its rounds.
		round, err := m.node(n)
		n.List.Nodes = append([]parse.Node{round}, n.List.Nodes...)
		return n, err
	case *parse.TemplateNode:
		if err := checkPipe(n.Pipe, 0); err != nil {
			return nil, err
		}
		return includeInstead(n)
	default:
		return n, nil
	}
}

func (m marker) branches(b *parse.BranchNode) error {
	if err := checkPipe(b.Pipe, 0); err != nil {
		return err
	}
	if err := m.list(b.List); err != nil {
		return err
	}
	return m.list(b.ElseList)
}

// checkPipe bounds how deep parentheses are inside each other.
func checkPipe(p *parse.PipeNode, depth int) error {
	if p == nil {
		return nil
	}
	if depth > maxNesting {
		return &nestingError{int(p.Position())}
	}
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			if chain, ok := arg.(*parse.ChainNode); ok {
				arg = chain.Node
			}
			if inner, ok := arg.(*parse.PipeNode); ok {
				if err := checkPipe(inner, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// node returns a call of the mark function for n.
func (m marker) node(n parse.Node) (parse.Node, error) {
	_, verbatim := n.(*parse.TextNode)
	m.r.marks = append(m.r.marks, mark{position{m.file, int(n.Position())}, verbatim, m.main})
	return action(fmt.Sprintf("{{%s %d}}", markFunction, len(m.r.marks)-1))
}

// includeInstead makes {{template "x" .}} an {{include "x" .}}, which does the same
// and counts how deep templates are inside each other: text/template's own bound
// begins anew with each execution and does not keep the stack from overflowing.
func includeInstead(n *parse.TemplateNode) (parse.Node, error) {
	made, err := action("{{include " + strconv.Quote(n.Name) + "}}")
	if err != nil {
		return nil, err
	}
	if a, ok := made.(*parse.ActionNode); ok && n.Pipe != nil {
		a.Pipe.Cmds[0].Args = append(a.Pipe.Cmds[0].Args, n.Pipe)
	}
	return made, nil
}

// action parses a text that is one action.
func action(text string) (parse.Node, error) {
	known := map[string]any{markFunction: struct{}{}, "include": struct{}{}}
	trees, err := parse.Parse("mark", text, "", "", known)
	if err != nil {
		return nil, fmt.Errorf("make template action %s: %w", text, err)
	}
	return trees["mark"].Root.Nodes[0], nil
}

// onMark is the function behind the marks.
func (r *renderer) onMark(number int) (string, error) {
	if number < 0 || number >= len(r.marks) {
		return "", &callError{message: "template: " + markFunction + " is not for use in templates"}
	}
	m := r.marks[number]
	if m.at.file != noFile {
		r.at = m.at
	}
	if m.main && r.depth == 0 {
		r.out.mark(m.at.offset, m.verbatim)
	}
	return "", r.step(1)
}
