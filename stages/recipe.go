package stages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"unicode/utf8"
)

// RecipeFormat is the version of the recipe encoding. It is part of every
// recipe, so that a change of what a stage means changes every stage digest.
const RecipeFormat = 1

// Kind says which step of an image a stage is.
type Kind string

// The kinds of stages, in the order in which they follow each other in an image.
const (
	KindFrom Kind = "from"
	// KindDockerfile is a whole Dockerfile, built on the base that its target
	// begins from.
	KindDockerfile Kind = "dockerfile"
	// KindInstructions is a group of instructions of a Dockerfile: up to and with a
	// RUN, or what is left of a build stage after the last one.
	KindInstructions        Kind = "instructions"
	KindBeforeInstall       Kind = "beforeInstall"
	KindImportBeforeInstall Kind = "importsBeforeInstall"
	KindInstall             Kind = "install"
	KindImportAfterInstall  Kind = "importsAfterInstall"
	KindBeforeSetup         Kind = "beforeSetup"
	KindImportBeforeSetup   Kind = "importsBeforeSetup"
	KindSetup               Kind = "setup"
	KindImportAfterSetup    Kind = "importsAfterSetup"
	KindSource              Kind = "source"
	// KindConfig holds image config alone. It exists where the stage below it
	// runs commands: folded into that one, a changed label would run them again. Of
	// a Dockerfile that is built group by group it is always the last stage.
	KindConfig Kind = "config"
)

// Kinds returns all kinds in the order in which they follow each other.
func Kinds() []Kind {
	return []Kind{
		KindFrom, KindDockerfile, KindInstructions, KindBeforeInstall, KindImportBeforeInstall, KindInstall, KindImportAfterInstall,
		KindBeforeSetup, KindImportBeforeSetup, KindSetup, KindImportAfterSetup, KindSource, KindConfig,
	}
}

// RunsCommands reports whether stages of this kind hold a shell section.
func (k Kind) RunsCommands() bool {
	switch k {
	case KindBeforeInstall, KindInstall, KindBeforeSetup, KindSetup:
		return true
	default:
		return false
	}
}

// Recipe is everything that determines a stage, and nothing else: no clock, no
// commit, no host name, no absolute path, no environment, no history.
//
// Fields stand in the order of their JSON names: that is what makes the
// encoding canonical.
type Recipe struct {
	// Base is the digest of the base's manifest for the platform; for stages of
	// kind [KindFrom] only. It is empty for "scratch".
	Base string `json:"base,omitempty"`
	// Commands is what a command stage runs, after Files are in place.
	Commands *Commands `json:"commands,omitempty"`
	// Config is folded into the last stage of an image.
	Config *Config `json:"config,omitempty"`
	// Dockerfile is what a stage of a Dockerfile is made from.
	Dockerfile *Dockerfile `json:"dockerfile,omitempty"`
	// Files are put in place before commands run. Of two sets that give the same
	// target path the later one wins; sets of one recipe never overlap.
	Files []FileSet `json:"files,omitempty"`
	// Format is [RecipeFormat].
	Format int `json:"format"`
	// Imports are taken from other images in this order.
	Imports []Import `json:"imports,omitempty"`
	Kind    Kind     `json:"kind"`
	// Parent is the stage that this one is built upon; nil for the first one.
	Parent   *Digest  `json:"parent,omitempty"`
	Platform Platform `json:"platform"`
	// Salt is written by "cairn lock --refresh" to have a stage built anew.
	Salt string `json:"salt,omitempty"`
}

// Commands is one shell section.
type Commands struct {
	// CacheVersion is the user's own word to have the section run again.
	CacheVersion string `json:"cacheVersion,omitempty"`
	// Interpreter is "sh" or "bash".
	Interpreter string `json:"interpreter"`
	// Mounts are there while the script runs, in the order of the configuration.
	Mounts []Mount `json:"mounts,omitempty"`
	// Network is "none" or "host"; empty for the engine's default, an outgoing network.
	Network string `json:"network,omitempty"`
	// Script holds the commands in order; they run as one script with -e.
	Script []string `json:"script"`
}

// FileSet is a set of files of a git tree at its place in the image.
type FileSet struct {
	// Files is the identity of the set: paths below To, git modes and object ids.
	Files Digest `json:"files"`
	// Group and Owner are names or numbers, as configured; names are looked up in
	// the parent's user table. Empty means 0.
	Group string `json:"group,omitempty"`
	Owner string `json:"owner,omitempty"`
	// To is the absolute, clean target path.
	To string `json:"to"`
}

// Import takes files from the result of another image.
type Import struct {
	// Add is the absolute path in the source image.
	Add          string   `json:"add"`
	ExcludePaths []string `json:"excludePaths,omitempty"`
	// From is the final stage digest of the source image.
	From         Digest   `json:"from"`
	Group        string   `json:"group,omitempty"`
	IncludePaths []string `json:"includePaths,omitempty"`
	Owner        string   `json:"owner,omitempty"`
	// To is the absolute path in this image.
	To string `json:"to"`
}

// Config is the part of an image's config that a project sets. What is nil or
// empty is inherited from the stage below.
type Config struct {
	// Cmd and Entrypoint replace the inherited ones. An Entrypoint without a Cmd
	// clears the inherited Cmd, as a Dockerfile does.
	Cmd         []string          `json:"cmd,omitempty"`
	Entrypoint  []string          `json:"entrypoint,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	Expose      []string          `json:"expose,omitempty"`
	Healthcheck *Healthcheck      `json:"healthcheck,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	StopSignal  string            `json:"stopSignal,omitempty"`
	User        string            `json:"user,omitempty"`
	Volumes     []string          `json:"volumes,omitempty"`
	WorkDir     string            `json:"workDir,omitempty"`
}

// IsZero reports whether c sets nothing.
func (c *Config) IsZero() bool { return c == nil || reflect.ValueOf(*c).IsZero() }

// Healthcheck follows Docker's HEALTHCHECK. Durations are nanoseconds, 0 means inherited.
type Healthcheck struct {
	Interval    int64    `json:"interval,omitempty"`
	Retries     int      `json:"retries,omitempty"`
	StartPeriod int64    `json:"startPeriod,omitempty"`
	Test        []string `json:"test"`
	Timeout     int64    `json:"timeout,omitempty"`
}

// ErrNotCanonical is returned by [DecodeRecipe] for bytes that [Recipe.Encode]
// would not have written.
var ErrNotCanonical = errors.New("recipe is not in its canonical encoding")

// Encode returns the canonical encoding: JSON without white space, object keys
// in byte order, text escaped as package encoding/json does without its HTML
// escapes. Two recipes are equal exactly when their encodings are.
//
// It fails on text that is not UTF-8, which JSON would silently replace and so
// give two recipes one encoding.
func (r *Recipe) Encode() ([]byte, error) {
	if err := checkText(reflect.ValueOf(r)); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode recipe: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Digest returns the stage digest: the sha256 of the canonical encoding.
func (r *Recipe) Digest() (Digest, error) {
	b, err := r.Encode()
	if err != nil {
		return Digest{}, err
	}
	return DigestOf(b), nil
}

// DecodeRecipe reads a canonical encoding. It returns an error that wraps
// [ErrNotCanonical] for any other bytes, unknown fields included.
func DecodeRecipe(b []byte) (*Recipe, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := new(Recipe)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrNotCanonical)
	}
	again, err := r.Encode()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	if !bytes.Equal(b, again) {
		return nil, ErrNotCanonical
	}
	return r, nil
}

// checkText walks over every string of a recipe.
func checkText(v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return fmt.Errorf("encode recipe: %q is not UTF-8", v.String())
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return checkText(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if err := checkText(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkText(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := errors.Join(checkText(it.Key()), checkText(it.Value())); err != nil {
				return err
			}
		}
	default: // numbers, booleans, digests
	}
	return nil
}
