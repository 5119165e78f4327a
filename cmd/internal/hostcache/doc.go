// Package hostcache says what a host's local state is made of, for
// cleanup/host: the stages on disk, what was read from storages, results that wait
// to be published, commits of other repositories, and the engine's records. The
// command line, builds and the daemon share it, and the lock by which one of them
// evicts at a time.
package hostcache
