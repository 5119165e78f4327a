// Package wire puts implementations together: it alone knows that a storage is
// a registry or a directory, that a ledger is made of files, and where on this
// host things lie.
package wire
