// Package daemon is the build daemon's life: it owns one build engine as a child
// process, hands connections on to it, starts it again after a crash and leaves
// when nobody has needed it for a while.
//
// The engine is BuildKit's OCI worker, linked in and run by "cairnd engine". It
// is a process of its own so that a crash of the engine, or of something it
// runs, takes neither the daemon nor its socket along.
package daemon
