// Package synchronization is a project's ledger: where runners agree which of
// them builds a stage and which manifest that stage has.
//
// A registry cannot compare and swap, so the decision "this manifest is stage D"
// is made here, in the entry of D. The states of an entry:
//
//	absent → building → publishing{M} → published{M} → absent, after Δ
//	absent → doomed → deleting{M} → deleted{M} → absent, after Δ
//	publishing{M} → deleting{M}        nobody has the bytes of M any more
//	deleted{M} → building, avoiding M  a new generation
//	doomed → published{M}              rescued by one who needs it
//
// building → publishing{M} is the decision. Only the session and nonce that an
// entry names can make it, so an owner that was paused and replaced cannot. A
// tag is written only directly after its writer has seen that the entry is still
// its own. An entry stays for Δ after the last request made under it, which is
// longer than any such request, or any stale read of the tag, can last.
//
// The package stands on [lock]; its backends are its siblings. It knows stage
// digests and manifest digests, and neither storages nor builds.
package synchronization
