// Package plan turns a configuration, a git tree and cairn.lock into a graph of
// stages with digests. It is pure but for one question that a lock entry makes
// needless: which manifest a base reference stands for today.
package plan
