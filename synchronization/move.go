package synchronization

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Place is where a project's stages are, and the ledger in which their runners
// coordinate.
type Place struct {
	// Storage and Ledger are the addresses, as settings name them.
	Storage string `json:"storage"`
	Ledger  string `json:"ledger"`
	// UID is the ledger's, which tells it from any other at the same address: that
	// of a single host may mean another one elsewhere.
	UID string `json:"uid"`
	// Host says for people on which host it is, "" for one that all hosts reach.
	Host string `json:"host,omitempty"`
}

// Step is how far a move has come.
type Step string

// The steps of a move, in their order.
const (
	// Copying: contents travel, without names. Builds go on as ever.
	Copying Step = "copying"
	// Draining: builds that run come to their end, others wait with beginning.
	Draining Step = "draining"
	// Closing: the ledger is being closed.
	Closing Step = "closing"
	// Finishing: it is closed; what was decided in it gets its tag.
	Finishing Step = "finishing"
	// Naming: the rest travels, and the names are given through entries of the
	// ledger to which the stages move.
	Naming Step = "naming"
	// Opening: that ledger is being opened.
	Opening Step = "opening"
	// Moved: all is over; this ledger stays closed.
	Moved Step = "moved"
)

// Steps returns the steps of a move in their order.
func Steps() []Step { return []Step{Copying, Draining, Closing, Finishing, Naming, Opening, Moved} }

// order is the place of a step among [Steps], -1 for one that is none.
func (s Step) order() int {
	for i, step := range Steps() {
		if s == step {
			return i
		}
	}
	return -1
}

// Before reports whether s comes before other.
func (s Step) Before(other Step) bool { return s.order() < other.order() }

// Move is what a ledger says about the move of its stages to another storage.
type Move struct {
	From Place `json:"from"`
	To   Place `json:"to"`
	Step Step  `json:"step"`
	// By says for people who moves, Session is their session in this ledger.
	By      string `json:"by"`
	Session string `json:"session"`
	// Since is when the step began, by the store's clock.
	Since time.Time `json:"since"`
	// Until is until when misses look into the storage that the stages came from;
	// of one that is Moved.
	Until time.Time `json:"until,omitzero"`
	// Epoch is that in which the other ledger takes the names, 0 for one that is in
	// use. Nothing is done there in another.
	Epoch int `json:"epoch,omitempty"`
	// Done of Total names have been given.
	Done  int `json:"done,omitempty"`
	Total int `json:"total,omitempty"`
}

// Arrival is what a ledger says about stages that move to it, before it is opened.
type Arrival struct {
	// From is where they come from.
	From Place `json:"from"`
	// By says for people who moves.
	By string `json:"by"`
}

// Keys of the record.
const (
	keyMove    = "move"
	keyArrival = "arrival"
)

// maxAddress bounds the length of an address in a record, in bytes.
const maxAddress = 1024

// DecodeMove reads a move as a record holds it. It accepts exactly what this
// package writes; anything else is [ErrBadEntry].
func DecodeMove(text string) (Move, error) { return decodeNote(text, Move.valid) }

// DecodeArrival is [DecodeMove] for an arrival.
func DecodeArrival(text string) (Arrival, error) { return decodeNote(text, Arrival.valid) }

// decodeNote reads a value that is valid and in the form in which it is written.
func decodeNote[T any](text string, valid func(T) error) (T, error) {
	var note T
	err := json.Unmarshal([]byte(text), &note)
	if err == nil {
		err = valid(note)
	}
	if err == nil {
		var canonical []byte
		if canonical, err = json.Marshal(note); err == nil && string(canonical) != text {
			err = errors.New("not in the form in which it is written")
		}
	}
	if err != nil {
		var none T
		return none, fmt.Errorf("%w: %w", ErrBadEntry, err)
	}
	return note, nil
}

func (a Arrival) valid() error { return errors.Join(a.From.valid(), plain("by", a.By)) }

func (m Move) valid() error {
	switch {
	case m.Step.order() < 0:
		return fmt.Errorf("unknown step %q", m.Step)
	case m.Since.IsZero():
		return errors.New("no time of the step")
	case (m.Step == Moved) == m.Until.IsZero():
		return fmt.Errorf("step %s with the end of the grace %s", m.Step, m.Until)
	case m.Done < 0 || m.Total < m.Done || m.Epoch < 0:
		return fmt.Errorf("%d of %d names, epoch %d", m.Done, m.Total, m.Epoch)
	case m.From.UID == m.To.UID:
		return errors.New("it moves to itself")
	}
	return errors.Join(m.From.valid(), m.To.valid(), plain("by", m.By), plain("session", m.Session))
}

func (p Place) valid() error {
	for what, s := range map[string]string{"storage": p.Storage, "ledger": p.Ledger, "uid": p.UID} {
		if s == "" {
			return fmt.Errorf("no %s", what)
		}
		if err := plain(what, s); err != nil {
			return err
		}
	}
	return plain("host", p.Host)
}

// plain returns an error for what people could not be shown on a line.
func plain(what, s string) error {
	if len(s) > maxAddress || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the %s is no line of at most %d bytes", what, maxAddress)
	}
	return nil
}

// encodeNote returns a note as it is stored, "" for none.
func encodeNote[N Move | Arrival](n *N) (string, error) {
	if n == nil {
		return "", nil
	}
	b, err := json.Marshal(n)
	return string(b), err
}
