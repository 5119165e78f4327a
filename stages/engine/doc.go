// Package engine runs command stages and imports on BuildKit.
//
// The engine speaks to no registry. What it reads comes from this process:
// published parents through a content store that is backed by the caller's
// storage, source files through a file system that is backed by the caller's
// tree. What it makes goes to this process: one raw layer, as a stream. So
// credentials never reach the engine, the bytes that move can be counted, and
// times, compression and media types are the caller's business alone.
//
// Two sessions carry this. One belongs to the [Engine] and serves what is read;
// because it outlives a single run, a job that continues another one's result
// ([Job.After]) finds that result by its key and no file is sent a second time.
// The other belongs to one [Engine.Run] and takes the layer that it makes.
package engine
