// Package stages holds the values that the rest of Cairn is about: stage
// digests, recipes, image configurations, and the plan of a build.
//
// It does no input or output and imports nothing of the project, so that every
// room can speak in its words.
package stages
