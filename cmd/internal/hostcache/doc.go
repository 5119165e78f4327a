// Package hostcache says what a host's local state is made of, for
// cleanup/host: the stages on disk, layers and results that wait to be
// published, and the engine's records. The command line and the daemon share it.
package hostcache
