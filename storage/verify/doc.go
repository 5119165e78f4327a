// Package verify looks whether a stages storage holds all that its names promise,
// says what is broken and for whom, and brings back what another storage still
// has. It never moves a tag: content comes back under its own digest, and what
// cannot come back is withdrawn by others, under entries of the ledger.
package verify
