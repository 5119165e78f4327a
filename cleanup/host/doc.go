// Package host keeps the local state of a host below a share of its volume: when
// the volume is fuller than the high mark, it evicts what was used least
// recently, until the low mark is met.
//
// What can be evicted comes from stores, which this package declares and others
// implement: the stages on disk, results that wait to be published, the engine's
// records. All of them are one budget. [Plan] decides purely, with a reason for
// everything; [Pass] acts, measures what the volume really gained after each
// batch, and goes on until the mark is met or nothing may go any more.
package host
