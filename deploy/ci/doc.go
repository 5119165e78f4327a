// Package ci derives from the environment of a CI job what a build needs to be
// told: where stages live, where runners coordinate, how much the run is trusted,
// a login, and what the run is about. It reads nothing itself: variables and files
// come in as functions, and what it derives is a value that [Result.Encode] writes
// for a shell or a program.
//
// All that a CI system says about a run was written by whoever pushed or opened a
// pull request: names of branches and tags are data, never text of a script, and
// no note repeats them, because CI systems take commands from logs.
package ci
