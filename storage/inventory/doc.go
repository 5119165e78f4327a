// Package inventory reads what a whole stages storage holds: every name with its
// kind, manifest, sizes and references. It costs one paged listing and one GET for
// each manifest that is not known yet. Those that are known stand in an index on
// this host's disk, so that the next reading costs the listing and what is new.
//
// What a digest names never changes, so the index is right about manifests for
// ever. About names it is a memory: a stage's tag is written once, but after a
// deletion the stage may be decided anew with another manifest, and the index of a
// build is then written over. Whoever deletes for what an inventory says looks
// again first, or reads it with [Options].Fresh, which asks for every name. The
// marker, which moves by design, is asked for every time.
package inventory
