// Package daemonctl finds, starts and asks the build daemon. It is what cairn
// needs of it: small, and free of the build engine that the daemon links.
package daemonctl
