// Package cleanup decides what of a stages storage goes, with a reason for every
// verdict. It is pure: an inventory of the storage, what planning the kept commits
// gave, what clusters use and what is in flight come in, verdicts come out.
//
// Since a stage's identity is its content, what is live is computed and recorded
// nowhere. Which commits are kept is decided by cleanup/policy, what clusters use is
// read by cleanup/kube, and what is decided here is done by cleanup/sweep.
package cleanup
