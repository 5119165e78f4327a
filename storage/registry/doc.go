// Package registry is a [storage.Storage] over the HTTP API of OCI registries.
//
// Requests are what a registry bills, limits and logs, so they are counted: there
// is no ping, no HEAD that is not needed, and every method says how many requests
// it sends when all goes well. Authentication is not part of these numbers.
//
// A [Client] owns, for each registry host, what its repositories share:
// connections, tokens, the limit of concurrent requests. Below a [Storage] the
// layers are, from the top: retries (retry.go), authentication (auth.go),
// redirects (redirect.go), and a single request that is watched for progress and
// observed (send.go). Errors get their class in one place (errors.go).
//
// The protocol is the OCI distribution specification 1.1,
// https://github.com/opencontainers/distribution-spec, and for tokens
// https://distribution.github.io/distribution/spec/auth/.
package registry
