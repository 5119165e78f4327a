// Package kubernetes is a ledger's backend in a namespace of a Kubernetes cluster.
//
// A shard is a ConfigMap and a cell one of its keys; a session is a Lease. A
// change is a JSON patch that tests the exact old value of every cell before it
// touches one, so many runners write different cells of a shard without knowing
// of each other. Reads are quorum reads: no request names a resourceVersion but
// a watch that goes on where another ended, and a watch only wakes.
//
// The package speaks the few requests that it needs itself, over the transport
// and the credentials of client-go. Its generated clients would hide what
// matters here: they send requests again on their own, do not show the server's
// clock, and bring the types of the whole API, which every start of the program
// would pay for.
//
// Connections speak HTTP/1.1. Over HTTP/2 all requests share one connection, and
// one that has died silently is only noticed after more time than a session
// lives; here a request that takes too long takes its connection with it.
package kubernetes
