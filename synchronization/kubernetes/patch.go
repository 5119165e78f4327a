package kubernetes

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cairnbuild/cairn/lock"
)

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// MarshalJSON leaves the value out where it has none; null is a value.
func (o operation) MarshalJSON() ([]byte, error) {
	if o.Op == "remove" {
		return json.Marshal(map[string]string{"op": o.Op, "path": o.Path})
	}
	type plain operation
	return json.Marshal(plain(o))
}

// pointer escapes a key for a path (RFC 6901).
func pointer(key string) string {
	return "/data/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// encodePatch returns the changes as a JSON patch. All tests come first, and each
// change has one: replacing a key that is missing succeeds in a JSON patch.
// What was seen of the object is put right on the way: a bare one is given its
// data before anything is tested.
func encodePatch(changes []lock.Change, seen sight) ([]byte, error) {
	var ops, tests []operation
	if seen.bare {
		ops = append(ops,
			operation{Op: "test", Path: "/data", Value: nil},
			operation{Op: "add", Path: "/data", Value: map[string]string{keyAbout: about}})
	}
	var writes []operation
	if seen.managed {
		// One empty entry is how the server is told to forget and to note no more.
		writes = append(writes, operation{Op: "add", Path: "/metadata/managedFields", Value: []struct{}{{}}})
	}
	for _, c := range changes {
		if c.Key == keyAbout {
			return nil, fmt.Errorf("the key %q is no cell", keyAbout)
		}
		path := pointer(c.Key)
		test := operation{Op: "test", Path: path}
		if c.Old != nil {
			test.Value = *c.Old
		}
		tests = append(tests, test)
		if w, ok := write(path, c); ok {
			writes = append(writes, w)
		}
	}
	return encode(append(append(ops, tests...), writes...))
}

// write returns the operation that makes a change, false for one that only tests.
func write(path string, c lock.Change) (operation, bool) {
	switch {
	case c.New == nil && c.Old == nil:
		return operation{}, false
	case c.New == nil:
		return operation{Op: "remove", Path: path}, true
	case c.Old == nil:
		return operation{Op: "add", Path: path, Value: *c.New}, true
	case *c.Old == *c.New:
		return operation{}, false
	}
	return operation{Op: "replace", Path: path, Value: *c.New}, true
}

// adds reports whether a change makes a cell.
func adds(changes []lock.Change) bool {
	for _, c := range changes {
		if c.Old == nil && c.New != nil {
			return true
		}
	}
	return false
}

// growth is by how much the changes let a shard grow, in bytes.
func growth(changes []lock.Change) int {
	n := 0
	for _, c := range changes {
		if c.New != nil {
			n += len(c.Key) + len(*c.New)
		}
		if c.Old != nil {
			n -= len(c.Key) + len(*c.Old)
		}
	}
	return n
}
