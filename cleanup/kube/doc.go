// Package kube finds what Kubernetes clusters use of a storage. It reads every
// resource that can be listed, custom ones too, and looks in all their text for
// digests that the storage knows and for its names: in pods with their init and
// ephemeral containers, in pod templates, in ReplicaSets and ControllerRevisions that
// are kept for a rollback, in values of any operator. Helm's revisions are unpacked
// from their Secrets and ConfigMaps; no other Secret is read.
//
// What cannot be read is an error, never an empty answer: a cleanup removes nothing
// that could be used where it cannot look.
package kube
