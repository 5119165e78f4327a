package config

import (
	"context"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
)

// bytesPerStep is how many bytes a function may make for one step.
const bytesPerStep = 256

// guard wraps a template function so that it counts as work and so that its
// result is bounded in size and depth. The bound on depth also catches a dict
// that is put into itself, which fmt would print until the stack overflows.
func (r *renderer) guard(name string, function any) any {
	f := reflect.ValueOf(function)
	t := f.Type()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
	}
	failed := reflect.TypeFor[error]()
	signature := reflect.FuncOf(in, []reflect.Type{t.Out(0), failed}, t.IsVariadic())
	size := growth(name)
	return reflect.MakeFunc(signature, func(args []reflect.Value) []reflect.Value {
		result, err := r.call(name, f, args, size)
		if err != nil {
			return []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&err).Elem()}
		}
		return []reflect.Value{result, reflect.Zero(failed)}
	}).Interface()
}

func (r *renderer) call(name string, f reflect.Value, args []reflect.Value, size func([]reflect.Value) int64) (reflect.Value, error) {
	if err := r.step(1); err != nil {
		return reflect.Value{}, err
	}
	if n := size(args); n < 0 || n > maxRendered {
		return reflect.Value{}, &callError{message: fmt.Sprintf("template: the result of %s would be larger than %d bytes", name, maxRendered)}
	}
	var out []reflect.Value
	if f.Type().IsVariadic() {
		out = f.CallSlice(args)
	} else {
		out = f.Call(args)
	}
	if len(out) > 1 && !out[1].IsNil() {
		err, _ := out[1].Interface().(error)
		return reflect.Value{}, err
	}
	m := measure{}
	if err := m.value(name, out[0], 0); err != nil {
		return reflect.Value{}, err
	}
	return out[0], r.step(m.elements + m.bytes/bytesPerStep)
}

// measure adds up what is in a value.
type measure struct{ elements, bytes int }

func (m *measure) value(name string, v reflect.Value, depth int) error {
	m.elements++
	switch v.Kind() {
	case reflect.String:
		m.bytes += v.Len()
	case reflect.Interface:
		if !v.IsNil() {
			m.elements--
			return m.value(name, v.Elem(), depth)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := m.value(name, v.Index(i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := m.value(name, it.Key(), depth+1); err != nil {
				return err
			}
			if err := m.value(name, it.Value(), depth+1); err != nil {
				return err
			}
		}
	default: // numbers and values of sprig's own that hold nothing large
	}
	switch {
	case depth > maxValueDepth:
		return &callError{message: fmt.Sprintf("template: the result of %s is nested more than %d levels deep; is it part of itself?", name, maxValueDepth)}
	case m.elements > maxElements || m.bytes > maxRendered:
		return &callError{message: fmt.Sprintf("template: the result of %s is too large", name)}
	}
	return nil
}

// growth returns an upper bound of the bytes that a function makes, for the
// functions that can make much from little; negative for an endless result.
func growth(name string) func(args []reflect.Value) int64 {
	text := func(v reflect.Value) int64 { return int64(v.Len()) }
	switch name {
	case "repeat":
		return func(a []reflect.Value) int64 { return product(max(a[0].Int(), 0), text(a[1])) }
	case "until":
		return func(a []reflect.Value) int64 { return steps(0, a[0].Int(), 1) }
	case "untilStep":
		return func(a []reflect.Value) int64 { return steps(a[0].Int(), a[1].Int(), a[2].Int()) }
	case "seq":
		return func(a []reflect.Value) int64 { return seqSize(a[0]) }
	case "indent", "nindent":
		return func(a []reflect.Value) int64 {
			return product(max(a[0].Int(), 0), 1+int64(strings.Count(a[1].String(), "\n")))
		}
	case "replace":
		return func(a []reflect.Value) int64 {
			return product(int64(strings.Count(a[2].String(), a[0].String())), text(a[1]))
		}
	case "join":
		return func(a []reflect.Value) int64 { return product(text(a[0]), length(a[1])) }
	case "wrapWith":
		return func(a []reflect.Value) int64 { return product(text(a[1]), text(a[2])) }
	case "regexReplaceAll", "regexReplaceAllLiteral", "mustRegexReplaceAll", "mustRegexReplaceAllLiteral":
		return func(a []reflect.Value) int64 { return product(text(a[1])+1, text(a[2])) }
	default:
		return func([]reflect.Value) int64 { return 0 }
	}
}

// product is a*b, or -1 where that overflows. Both are at least 0.
func product(a, b int64) int64 {
	if a > 0 && b > (1<<62)/a {
		return -1
	}
	return a * b
}

// steps is the size of the numbers from a to b: eight bytes each.
func steps(a, b, by int64) int64 {
	const most = 1 << 40
	if by == 0 || max(a, b, by) > most || min(a, b, by) < -most {
		return -1
	}
	return 8 * max((b-a)/by, (a-b)/by)
}

// seqSize is that of sprig's seq: LAST, FIRST LAST, or FIRST STEP LAST.
func seqSize(params reflect.Value) int64 {
	at := func(i int) int64 { return params.Index(i).Int() }
	switch params.Len() {
	case 1:
		return steps(1, at(0), 1)
	case 2:
		return steps(at(0), at(1), 1)
	case 3:
		return steps(at(0), at(2), at(1))
	default:
		return 0
	}
}

func length(v reflect.Value) int64 {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		return int64(v.Len())
	default:
		return 1
	}
}

// Read implements [Files].
func (noFiles) Read(_ context.Context, path string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// Glob implements [Files].
func (noFiles) Glob(context.Context, string) ([]string, error) { return nil, nil }
