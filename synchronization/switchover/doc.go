// Package switchover moves a project from one stages storage to another, and with
// it from one ledger to another, while runners go on building: from :local to a
// registry, and back.
//
// What is copied without names comes first, since it takes long and disturbs
// nobody. Then the old ledger is closed, which fences whoever decides in it; what
// was decided there gets its tag; the names are given at the new place through
// entries of the new ledger, which is closed to everybody else; and that ledger is
// opened. The step that was reached stands in the record of the old ledger, so
// that a switch which was interrupted goes on where it was, that runners know what
// they wait for, and where to go. Each run takes the new ledger into an epoch of
// its own, so a run that was taken for dead and is not can do nothing more.
package switchover
