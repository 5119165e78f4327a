package stages

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// Digest is a stage digest: the sha256 of a stage's canonical recipe. It is the
// stage's identity, on every machine and for ever.
//
// It is a type of its own so that it cannot be mixed up with the digest of a
// manifest or a blob, which names bytes and not a recipe.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// DigestOf returns the sha256 of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads "sha256:" followed by 64 lower-case hexadecimal digits, or
// the digits alone, as they stand in a tag.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	h := strings.TrimPrefix(s, digestPrefix)
	if len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return d, fmt.Errorf("%q is no stage digest: want sha256: and 64 lower-case hexadecimal digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return Digest{}, fmt.Errorf("%q is no stage digest: want sha256: and 64 lower-case hexadecimal digits", s)
	}
	return d, nil
}

// String returns the digest as "sha256:<64 hex>".
func (d Digest) String() string { return digestPrefix + d.Hex() }

// Hex returns the 64 hexadecimal digits alone, which is the tag of the stage.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 hexadecimal digits, for people.
func (d Digest) Short() string { return d.Hex()[:12] }

// IsZero reports whether d names no stage.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Digest) UnmarshalText(b []byte) error {
	if !strings.HasPrefix(string(b), digestPrefix) {
		return fmt.Errorf("%q is no stage digest: the sha256: is missing", b)
	}
	v, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// digestJSON returns the digest of v's JSON. Fields of v stand in the order of
// their names, as in [Recipe].
func digestJSON(v any) (Digest, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Digest{}, err
	}
	return DigestOf(b), nil
}
