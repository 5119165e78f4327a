// Package telemetry tells programs what cairn and cairnd do: logs, traces of
// builds, and sums for metrics. None of it changes how a build goes: what cannot
// be delivered in a short time is dropped, and nothing is sent anywhere unless
// the environment names a receiver.
//
// A build is observed through [build.Observer]; its algorithm knows nothing of
// this package. What leaves the process holds names, digests, numbers and classes
// of errors, never texts that came from outside.
package telemetry
