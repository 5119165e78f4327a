package config

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// renderer executes the templates of one configuration file.
//
// Before execution it inserts a call of mark in front of every node of the parsed
// templates. The marks tell where output comes from and where execution is when
// something fails, and they count steps, so that no loop runs for ever.
type renderer struct {
	ctx   context.Context
	in    Input
	files []sourceFile
	root  *template.Template
	out   *output
	// marked are the trees that carry marks already.
	marked map[*parse.Tree]bool
	// marks are what the numbers in the calls of mark stand for.
	marks []mark
	env   allowance
	// at is where execution is. In a text given to tpl it stays where tpl was called.
	at    position
	depth int
	steps int
}

// sourceFile is a file that templates were parsed from.
type sourceFile struct{ path, text string }

// position is an offset into one of the renderer's files.
type position struct{ file, offset int }

const (
	markFunction = "_mark"
	// noFile is the file of a text given to tpl.
	noFile  = -1
	noValue = "<no value>"
)

// render executes the templates of in.
func render(ctx context.Context, in Input, dialect Dialect, env allowance) (*rendered, error) {
	r := &renderer{
		ctx: ctx, in: in, out: &output{}, marked: make(map[*parse.Tree]bool),
		env: env, steps: maxSteps,
	}
	r.root = template.New(in.Path).Funcs(r.functions())
	if err := r.parse(in.Path, in.Path, string(in.Data)); err != nil {
		return nil, err
	}
	if err := r.parseTemplateFiles(dialect); err != nil {
		return nil, err
	}
	if err := r.root.ExecuteTemplate(r.out, in.Path, r.data()); err != nil {
		return nil, r.failure(err)
	}
	text := newRendered(string(in.Data), r.out)
	return text, r.refuseNoValue(text)
}

// data is what "." is at the top. It is a map because "set" adds to it by custom.
func (r *renderer) data() map[string]any { return map[string]any{"Files": templateFiles{r}} }

// templateFolder is where a dialect keeps its template files.
func templateFolder(d Dialect) string {
	if d == DialectWerf {
		return ".werf"
	}
	return ".cairn"
}

// parseTemplateFiles parses the commit's *.tmpl files. They are named by their
// path below the folder.
func (r *renderer) parseTemplateFiles(d Dialect) error {
	folder := templateFolder(d)
	paths, err := r.in.Files.Glob(r.ctx, folder+"/**/*.tmpl")
	if err != nil {
		return fmt.Errorf("list templates in %s: %w", folder, err)
	}
	if len(paths) > maxTemplates {
		return single(&Error{File: r.in.Path, Line: 1, Message: fmt.Sprintf("%s has %d templates; at most %d are read", folder, len(paths), maxTemplates)})
	}
	slices.Sort(paths)
	for _, p := range paths {
		text, err := r.in.Files.Read(r.ctx, p)
		if err != nil {
			return fmt.Errorf("read template %s: %w", p, err)
		}
		if len(text) > maxSource {
			return single(&Error{File: p, Line: 1, Message: fmt.Sprintf("the template has %d bytes; at most %d are read", len(text), maxSource)})
		}
		if err := r.parse(strings.TrimPrefix(p, folder+"/"), p, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// parse adds a file's templates to the root and marks them.
func (r *renderer) parse(name, path, text string) error {
	r.files = append(r.files, sourceFile{path, text})
	t := r.root
	if name != t.Name() {
		t = t.New(name)
	}
	if _, err := t.Parse(text); err != nil {
		line, message := parseFailure(err)
		return single(&Error{File: path, Line: line, Message: "template: " + message})
	}
	err := r.mark(r.root, len(r.files)-1)
	if nesting := (*nestingError)(nil); errors.As(err, &nesting) {
		p := placeOf(text, nesting.offset)
		return single(&Error{File: path, Line: p.line, Column: p.column, Message: nesting.Error()})
	}
	return err
}

// parseErrorText is how text/template words the place of a parse error. It gives
// the place in no other form than its text.
var parseErrorText = regexp.MustCompile(`(?s)^template: .*?:(\d+): (.*)$`)

func parseFailure(err error) (line int, message string) {
	m := parseErrorText.FindStringSubmatch(err.Error())
	if m == nil {
		return 1, err.Error()
	}
	line, convErr := strconv.Atoi(m[1])
	if convErr != nil {
		return 1, m[2]
	}
	return line, m[2]
}

// failure turns an execution error into one at the position that the last mark
// gave. The end of the context and failures of [Files] stay what they are.
func (r *renderer) failure(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if outside := (*outsideError)(nil); errors.As(err, &outside) {
		return outside.err
	}
	f := sourceFile{path: r.in.Path}
	if len(r.files) > 0 {
		f = r.files[r.at.file]
	}
	p := placeOf(f.text, r.at.offset)
	e := &Error{File: f.path, Line: p.line, Column: p.column, Message: plainMessage(err)}
	if called := (*callError)(nil); errors.As(err, &called) {
		e.Message, e.Hint = called.message, called.hint
	}
	return single(e)
}

// plainMessage leaves out the place that text/template puts in front, which
// counts in the innermost template and is given by the mark already.
func plainMessage(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, ": executing "); ok {
		if _, after, ok = strings.Cut(after, " at <"); ok {
			return "template: <" + after
		}
	}
	return text
}

// refuseNoValue finds what text/template prints for a name that nothing sets.
func (r *renderer) refuseNoValue(text *rendered) error {
	for from := 0; ; {
		i := strings.Index(text.text[from:], noValue)
		if i < 0 {
			return nil
		}
		from += i
		if source, verbatim := text.origin(from); !verbatim {
			p := placeOf(text.source, source)
			return single(&Error{
				File: r.in.Path, Line: p.line, Column: p.column, Message: "template: the expression has no value",
				Hint: `"." holds only Files and what the file itself sets; use "get" or "default" for what may be missing`,
			})
		}
		from += len(noValue)
	}
}

// step counts work and ends it when there was too much or when ctx has ended.
func (r *renderer) step(n int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.steps -= n; r.steps < 0 {
		return &callError{message: "template: this takes too many steps; is there a loop that does not end?"}
	}
	return nil
}

// nested runs f one level deeper, and returns to the present position after it.
// A failure leaves the position where it happened.
func (r *renderer) nested(f func() error) error {
	if r.depth >= maxIncludeDepth {
		return &callError{message: fmt.Sprintf("template: templates include each other more than %d levels deep", maxIncludeDepth)}
	}
	at := r.at
	r.depth++
	err := f()
	r.depth--
	if err == nil {
		r.at = at
	}
	return err
}

// include executes a named template and returns its text.
func (r *renderer) include(name string, data ...any) (string, error) {
	if r.root.Lookup(name) == nil {
		return "", &callError{message: fmt.Sprintf("template: there is no template %q", name), hint: r.templateHint()}
	}
	var dot any
	if len(data) > 0 {
		dot = data[0]
	}
	var out output
	err := r.nested(func() error { return r.root.ExecuteTemplate(&out, name, dot) })
	return out.buf.String(), err
}

// templateHint lists the templates that exist.
func (r *renderer) templateHint() string {
	var names []string
	for _, t := range r.root.Templates() {
		if t.Name() != r.in.Path {
			names = append(names, strconv.Quote(t.Name()))
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "no templates are defined"
	}
	return shorten("defined are " + strings.Join(names, ", "))
}

// tpl executes text as a template that sees the named ones.
func (r *renderer) tpl(text string, data any) (string, error) {
	if len(text) > maxSource {
		return "", &callError{message: fmt.Sprintf("template: tpl takes at most %d bytes", maxSource)}
	}
	if err := r.step(len(text) / 16); err != nil { // parsing costs, too
		return "", err
	}
	clone, err := r.root.Clone()
	if err != nil {
		return "", err
	}
	t, err := clone.New("tpl").Parse(text)
	if err != nil {
		line, message := parseFailure(err)
		return "", &callError{message: fmt.Sprintf("template: line %d of the text given to tpl: %s", line, message)}
	}
	if err := r.mark(clone, noFile); err != nil {
		return "", &callError{message: err.Error()}
	}
	var out output
	outer := r.root
	r.root = clone
	err = r.nested(func() error { return t.Execute(&out, data) })
	r.root = outer
	return out.buf.String(), err
}
