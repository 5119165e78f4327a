// Package dockerfile tells what the result of a Dockerfile follows from.
//
// It parses with BuildKit's own parser and decides which build stages the target
// needs, which arguments an instruction can see, which images are named, and
// which files of the context can be taken. Out of that comes a
// [stages.Dockerfile], the part of a recipe that makes a Dockerfile's digest:
// instruction by instruction, so that a step can be told from the next.
//
// It runs nothing and resolves no image. Where it cannot know, because a
// variable may come from the environment of a base, it takes more into account
// rather than less: a needless build is better than a stale one. What it cannot
// hold still at all, such as a download without a checksum, is an [Error].
package dockerfile
