package synchronization

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
)

// State is where a stage in flight stands.
type State string

// The states of an entry.
const (
	// Absent: there is no entry; what the tag shows is right.
	Absent State = ""
	// Building: the owner makes the stage; nothing is decided.
	Building State = "building"
	// Publishing: the manifest is decided and the owner is giving it its tag.
	Publishing State = "publishing"
	// Published: the tag shows the manifest, perhaps not yet to everybody.
	Published State = "published"
	// Doomed: a cleaner is about to delete the stage; what the tag shows is still right.
	Doomed State = "doomed"
	// Deleting: the generation has ended and its manifest is being deleted.
	Deleting State = "deleting"
	// Deleted: the manifest is gone, perhaps not yet for everybody.
	Deleted State = "deleted"
)

// Entry is what the ledger says about a stage. The zero Entry is that of a
// stage that it says nothing about.
type Entry struct {
	State State `json:"state"`
	// Session and Nonce name the acquisition that owns the entry.
	Session string `json:"session"`
	Nonce   string `json:"nonce"`
	// Manifest is the manifest decided, in the states that have one.
	Manifest digest.Digest `json:"manifest,omitempty"`
	// Avoid is the manifest of the generation before, which a building one must not have.
	Avoid digest.Digest `json:"avoid,omitempty"`
	// At is when, by the store's clock, everything sent under the entry had been
	// sent; of published and deleted entries.
	At time.Time `json:"at,omitzero"`
}

// entryPrefix begins the keys of entries.
const entryPrefix = "stage."

// maxToken bounds the length of session ids and nonces.
const maxToken = 64

func entryKey(d stages.Digest) string { return entryPrefix + d.Hex() }

// entryDigest returns the stage whose entry a key is, false for other keys.
func entryDigest(key string) (stages.Digest, bool, error) {
	hex, ok := strings.CutPrefix(key, entryPrefix)
	if !ok {
		return stages.Digest{}, false, nil
	}
	d, err := stages.ParseDigest(hex)
	if err != nil || d.Hex() != hex {
		return stages.Digest{}, true, fmt.Errorf("%w: key %q names no stage", ErrBadEntry, key)
	}
	return d, true, nil
}

// encode returns the entry as it is stored, "" for no entry. There is one
// encoding of an entry, so texts can be compared for entries.
func (e Entry) encode() (string, error) {
	if e.State == Absent {
		return "", nil
	}
	if err := e.valid(); err != nil {
		return "", err
	}
	b, err := json.Marshal(e)
	return string(b), err
}

// DecodeEntry reads an entry as it is stored under key. It accepts exactly what
// this package writes; anything else is [ErrBadEntry] and names the key.
func DecodeEntry(key, text string) (Entry, error) {
	var e Entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return Entry{}, fmt.Errorf("%w: key %q: %w", ErrBadEntry, key, err)
	}
	canonical, err := e.encode()
	if err == nil && (canonical != text || text == "") {
		err = errors.New("not in the form in which entries are written")
	}
	if err != nil {
		return Entry{}, fmt.Errorf("%w: key %q: %w", ErrBadEntry, key, err)
	}
	return e, nil
}

// shape is which fields a state has.
type shape struct{ manifest, avoid, at bool }

func (s State) shape() (shape, bool) {
	switch s {
	case Building:
		return shape{avoid: true}, true
	case Publishing, Deleting:
		return shape{manifest: true}, true
	case Published, Deleted:
		return shape{manifest: true, at: true}, true
	case Doomed:
		return shape{}, true
	}
	return shape{}, false
}

func (e Entry) valid() error {
	want, known := e.State.shape()
	switch {
	case !known:
		return fmt.Errorf("unknown state %q", e.State)
	case !token(e.Session):
		return fmt.Errorf("session %q is none", e.Session)
	case !token(e.Nonce):
		return fmt.Errorf("nonce %q is none", e.Nonce)
	case want.manifest != (e.Manifest != ""):
		return fmt.Errorf("state %s with manifest %q", e.State, e.Manifest)
	case !want.avoid && e.Avoid != "":
		return fmt.Errorf("state %s with a manifest to avoid", e.State)
	case want.at == e.At.IsZero():
		return fmt.Errorf("state %s with time %s", e.State, e.At)
	}
	return errors.Join(validManifest(e.Manifest), validManifest(e.Avoid))
}

func validManifest(m digest.Digest) error {
	if m == "" {
		return nil
	}
	if err := m.Validate(); err != nil {
		return fmt.Errorf("manifest %q: %w", m, err)
	}
	return nil
}

// token reports whether s can be a session's id or a nonce.
func token(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// inFlight reports whether the entry's owner is at work on it, so that others
// wait for its end, or for the owner's.
func (e Entry) inFlight() bool {
	return e.State == Building || e.State == Publishing || e.State == Deleting
}

// idle reports whether nothing was decided under the entry, so that it can be
// taken away when its owner is dead.
func (e Entry) idle() bool { return e.State == Building || e.State == Doomed }

// takeover returns the entry of a session that acquires the stage: a new
// generation where there is none, else the same state under a new nonce, to be
// finished. It is only asked where nobody else alive owns the entry.
func (e Entry) takeover(session, nonce string) (Entry, bool) {
	next := Entry{State: e.State, Session: session, Nonce: nonce, Manifest: e.Manifest, Avoid: e.Avoid}
	switch e.State {
	case Absent:
		next.State = Building
		return next, true
	case Deleted:
		next.State, next.Manifest, next.Avoid = Building, "", e.Manifest
		return next, true
	}
	return next, e.inFlight()
}

// released returns the entry that is left of one under which nothing was
// decided: none, or that of the deleted generation.
func (e Entry) released(at time.Time) Entry {
	if e.Avoid == "" {
		return Entry{}
	}
	return Entry{State: Deleted, Session: e.Session, Nonce: e.Nonce, Manifest: e.Avoid, At: stamp(at)}
}

// stamp brings a time into the one form that entries have.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
