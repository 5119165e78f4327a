// Package source turns the git tree of a commit into the files of an image:
// which files a stage places, the identity of that set, and the deterministic
// layers that hold it.
//
// A file is its git mode and object id. Both are listed once for a commit and
// kept in memory, so that the identity of any [stages.Selection] is computed
// without asking git again; contents are read only when a layer is made. Nothing
// of the machine enters an identity: no time, no path of the work tree, no
// history, and a shallow clone is as good as a full one.
//
// The files of submodules stand in the list at their paths, those of Git LFS have
// the contents that their pointers name; both are read from what the clone has.
//
// [Remotes] reads commits of other repositories through a cache; [Tree.Attach] has
// a project's mappings find their files.
//
// Git runs as a child process in an environment of its own: without variables
// that would point it at another repository, without prompts, hooks, file
// system monitors or content filters. Objects that a partial clone has not
// fetched yet are fetched by git when their contents are read.
package source
