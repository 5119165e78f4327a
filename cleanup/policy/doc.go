// Package policy decides which git references, and which commits of their
// histories, a cleanup keeps. It is pure: what a commit built is asked of the
// caller, lazily, since to answer it the commit is planned.
//
// The words are those of the keep policies in cairn.yaml, and so is what they
// mean: see docs/cleanup.md.
package policy
