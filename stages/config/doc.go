// Package config reads a project's cairn.yaml, or a werf.yaml of configVersion
// 1, into typed and validated values.
//
// It sits before planning: bytes of the commit come in, a [Project] or a list of
// errors with their places comes out. It reads nothing itself; other files of the
// commit are asked for through [Files].
//
// A file is rendered as a Go template, read as YAML and checked against the key
// tables of this package, from which [Schema] and [Reference] are made as well.
// The template language is pure: nothing in it knows the clock, the machine or
// chance, and environment variables only where the committed file names them.
//
// All that a hostile file could make grow is bounded; see the max… constants.
package config
