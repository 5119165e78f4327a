// Package build is the run: it looks up every stage of a plan, takes the locks
// of those that are missing, has them made, publishes them and reports.
//
// The order of steps for one stage is the publish protocol; it stands in
// protocol.go, beside the reasons. Everything else here exists to run many
// stages at once without ever waiting while it keeps another runner from going on.
package build
