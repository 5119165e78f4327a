// Package e2e holds the tests of the whole: the real cairn and cairnd against a
// real registry and a real engine, looked at only from outside, as a user would.
//
// Each test has hosts of its own (a home, a cache and a state directory), so that
// a second host is one that has never seen the project. Most share two engines;
// where a test must show that a command did not run again, its second build goes
// to the other engine, which cannot have the result by itself. How often a command
// ran is counted by a server that the command asks.
//
// The tests need root, runc, busybox, docker-registry and the pinned BuildKit;
// what is missing fails them.
package e2e
