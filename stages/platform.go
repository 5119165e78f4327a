package stages

import (
	"fmt"
	"regexp"
	"strings"
)

// Platform names what an image runs on as os/architecture[/variant], for
// instance "linux/amd64" or "linux/arm/v7".
type Platform string

// DefaultPlatform is built where a configuration names none. It does not follow
// the machine that Cairn runs on: a plan is the same on every machine.
const DefaultPlatform Platform = "linux/amd64"

var platformPart = regexp.MustCompile(`^[a-z0-9_.-]+$`)

// ParsePlatform checks s and returns it in its usual form: the variant of arm64
// that everybody means, v8, is left out.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return "", fmt.Errorf("%q is no platform: want os/architecture or os/architecture/variant, for instance linux/amd64", s)
	}
	for _, p := range parts {
		if !platformPart.MatchString(p) {
			return "", fmt.Errorf("%q is no platform: want os/architecture or os/architecture/variant, for instance linux/amd64", s)
		}
	}
	if len(parts) == 3 && parts[1] == "arm64" && parts[2] == "v8" {
		parts = parts[:2]
	}
	return Platform(strings.Join(parts, "/")), nil
}

// OS returns the first part.
func (p Platform) OS() string { return p.part(0) }

// Architecture returns the second part.
func (p Platform) Architecture() string { return p.part(1) }

// Variant returns the third part, or "".
func (p Platform) Variant() string { return p.part(2) }

func (p Platform) part(i int) string {
	parts := strings.Split(string(p), "/")
	if i >= len(parts) {
		return ""
	}
	return parts[i]
}
