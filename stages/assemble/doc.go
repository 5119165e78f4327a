// Package assemble makes stages without an engine: it writes the manifests of
// images from their config and layers alone.
//
// A base, source files and image config need nothing to run, so nothing is
// pulled and no engine is started for them. What would otherwise need the base
// on disk (which directories are links, which number a user's name stands for)
// is known from the [Tables] of an image: they are read off the headers of its
// layers once, carried along in an annotation, and kept up while layers are
// added.
//
// An [Image] is a value: made by [Scratch], [From] or [Load], extended with
// [Image.Append]. Equal layers and equal config always give equal bytes.
package assemble
