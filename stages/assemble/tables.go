package assemble

// Tables is what must be known of an image's file system to put files on top
// of it without having it: its directories, its symbolic links, and the numbers
// of its users and groups. Regular files are not in it, which keeps it small.
//
// Tables are immutable and may be shared.
type Tables struct {
	root *node
	// users and groups are nil where the image has no such file.
	users, groups *accounts
}

// emptyTables is what an image without layers has.
func emptyTables() *Tables { return &Tables{root: newDir()} }

// IsDir reports whether there is a directory at path, which is clean and has no
// leading slash; "" is the root. Links are not followed.
func (t *Tables) IsDir(path string) bool {
	n := t.root.find(path)
	return n != nil && n.kind == kindDir
}

// Link returns the target of the symbolic link at path, as it was written.
func (t *Tables) Link(path string) (string, bool) {
	n := t.root.find(path)
	if n == nil || n.kind != kindLink {
		return "", false
	}
	return n.target, true
}

// User returns the number of a user: a name of the image's /etc/passwd, or a
// number itself; "" is 0. The error for an unknown name wraps [ErrUnknownName]
// and says which ones there are.
func (t *Tables) User(name string) (int, error) { return t.users.lookup(name, passwdPath) }

// Group is [Tables.User] for groups and /etc/group.
func (t *Tables) Group(name string) (int, error) { return t.groups.lookup(name, groupPath) }

// apply returns the tables of the image that has one more layer.
func (t *Tables) apply(c *changes) *Tables {
	return &Tables{
		root:   merge(t.root, c.root),
		users:  applyAccounts(t.users, c, passwdPath, c.users),
		groups: applyAccounts(t.groups, c, groupPath, c.groups),
	}
}

func applyAccounts(below *accounts, c *changes, path string, read *accounts) *accounts {
	etc, name := c.root.child(path[:3]), path[4:]
	switch n := etc.child(name); {
	case n == nil && etc == nil:
		return below
	case n == nil && etc.kind == kindDir && !etc.opaque:
		return below
	case n == nil || n.kind == kindGone || n.kind == kindDir:
		return nil
	case n.kind == kindFile && read != nil:
		return read
	default:
		return &accounts{unreadable: true}
	}
}
