package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// maxMain is the length of the longest main function, in lines.
const maxMain = 40

// Syntax reports, for each file of the packages, init functions, package
// variables that could change, and main functions that do more than call.
func Syntax(list []Package) ([]string, error) {
	var wrong []string
	for _, p := range list {
		for _, name := range p.GoFiles {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			for _, w := range syntaxOf(files, file) {
				wrong = append(wrong, fmt.Sprintf("%s/%s: %s", p.Path(), name, w))
			}
		}
	}
	return wrong, nil
}

func syntaxOf(files *token.FileSet, file *ast.File) []string {
	var wrong []string
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			wrong = append(wrong, functionOf(files, file, d)...)
		case *ast.GenDecl:
			if d.Tok == token.VAR {
				wrong = append(wrong, variablesOf(file, d)...)
			}
		}
	}
	return wrong
}

func functionOf(files *token.FileSet, file *ast.File, f *ast.FuncDecl) []string {
	if f.Recv != nil {
		return nil
	}
	switch f.Name.Name {
	case "init":
		return []string{"an init function runs before anybody can pass it anything"}
	case "main":
		lines := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1
		if file.Name.Name == "main" && lines >= maxMain {
			return []string{fmt.Sprintf("main has %d lines; it shall only call, in less than %d", lines, maxMain)}
		}
	}
	return nil
}

func variablesOf(file *ast.File, d *ast.GenDecl) []string {
	var wrong []string
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || embedded(d.Doc) || embedded(v.Doc) {
			continue
		}
		for i, name := range v.Names {
			if constant(file, v, i) {
				continue
			}
			wrong = append(wrong, fmt.Sprintf("the package variable %s could be changed from anywhere", name.Name))
		}
	}
	return wrong
}

// constant reports whether the i-th variable of v is one that nobody changes
// but that Go cannot write as a constant: an interface check, a sentinel error,
// a regular expression, or the version that the linker sets.
func constant(file *ast.File, v *ast.ValueSpec, i int) bool {
	if v.Names[i].Name == "_" {
		return true
	}
	if v.Names[i].Name == "version" && (file.Name.Name == "main" || file.Name.Name == "cli") {
		return true
	}
	if i >= len(v.Values) {
		return false
	}
	if of, ok := v.Values[i].(*ast.SelectorExpr); ok {
		return strings.HasPrefix(of.Sel.Name, "Err") // a sentinel error of another package
	}
	call, ok := v.Values[i].(*ast.CallExpr)
	if !ok {
		return false
	}
	function, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := function.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch of.Name + "." + function.Sel.Name {
	case "errors.New", "fmt.Errorf", "regexp.MustCompile":
		return true
	default:
		return false
	}
}

func embedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed ") {
			return true
		}
	}
	return false
}
