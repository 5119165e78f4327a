// Package history checks what many runners did that built the same commit at once,
// or several commits while cleaners removed what no reference kept.
//
// A [History] is what was seen from outside of them: every request that they sent
// to the registry and to the ledger, with its answer, as proxies in front of both
// recorded it; every state of the ledger's shards; what the registry itself logged
// and holds at the end; which commands ran; and how each runner ended. [Check] is
// a pure function over it that demands what Cairn promises. All times are of one
// monotonic clock, that of the process that recorded.
package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind says what an event is.
type Kind string

// The kinds of events, and which fields they have besides the times.
const (
	// Start is a runner that begins, Stop one that is paused, Kill one that is
	// killed. Runner.
	Start Kind = "start"
	Stop  Kind = "stop"
	Kill  Kind = "kill"
	// Clean is a cleaner that begins; it is a runner, too. Runner.
	Clean Kind = "clean"
	// End is a runner that ends by itself. Runner, Exit, Report, Note.
	End Kind = "end"
	// TagRead is a question for a tag. Runner, Tag, Status, Seen, Digest.
	TagRead Kind = "tag-read"
	// TagPut gives a tag to a manifest. Runner, Tag, Digest, Lists, Status, Seen. One
	// that is put on the tomb is deleted by it.
	TagPut Kind = "tag-put"
	// Push stores a manifest by its digest. Runner, Digest, Lists, Status, Seen.
	Push Kind = "push"
	// Delete asks the registry to delete a tag or a manifest. Runner, Tag or Digest,
	// Status, Seen.
	Delete Kind = "delete"
	// LedgerRead is a read of a shard. Runner, Shard, Revision, Seen.
	LedgerRead Kind = "ledger-read"
	// LedgerWrite is a change of a shard. Runner, Shard, Changes, Status, Seen, and
	// Revision where the answer told it.
	LedgerWrite Kind = "ledger-write"
	// Session is the making of a session. Runner, Session, Status.
	Session Kind = "session"
	// Command is a command that ran. Command; Count in a history of several places,
	// which has it once, at the end.
	Command Kind = "command"
	// Logged is what the registry's own log says of the writes of one manifest.
	// Tag or Digest, Count.
	Logged Kind = "logged"
	// Final is a tag as it is when all is over. Tag, Digest, Lists, Note where
	// something of it is missing or damaged.
	Final Kind = "final"
	// Plan is what planning a commit gives: the report of a build that looked up
	// nothing. Report.
	Plan Kind = "plan"
	// Refer has a branch name a commit, from the event on; Digest is the root of its
	// plan, "" for a branch that names none, or of which that is about to change. Tag.
	Refer Kind = "refer"
)

// Event is one thing that was seen.
type Event struct {
	Kind Kind `json:"kind"`
	// Place is where it was seen, of a history of several places.
	Place  string `json:"place,omitempty"`
	Runner string `json:"runner,omitempty"`
	// Begin is when the runner's request was there, Finish when its answer was.
	Begin  time.Duration `json:"begin"`
	Finish time.Duration `json:"finish,omitempty"`
	// Status is the server's answer; 0 where there was none, so that nobody knows
	// what it did.
	Status int `json:"status,omitempty"`
	// Seen: the runner got the answer.
	Seen   bool   `json:"seen,omitempty"`
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Lists are the manifests of an index, or the layers of an image, in their order.
	Lists    []string `json:"lists,omitempty"`
	Shard    string   `json:"shard,omitempty"`
	Revision uint64   `json:"revision,omitempty"`
	Changes  []Change `json:"changes,omitempty"`
	Session  string   `json:"session,omitempty"`
	Command  string   `json:"command,omitempty"`
	Count    int      `json:"count,omitempty"`
	Exit     int      `json:"exit,omitempty"`
	Report   *Report  `json:"report,omitempty"`
	Note     string   `json:"note,omitempty"`
}

// Change is that of a key from one value to another; "" is absence.
type Change struct {
	Key string `json:"key"`
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// Report is a runner's account of its build.
type Report struct {
	Root   string            `json:"root"`
	Images map[string]string `json:"images"` // references by name
	Stages []Stage           `json:"stages"`
}

// Stage is one of a report.
type Stage struct {
	// Image is the one that it is a stage of; those of one stand on each other in
	// their order.
	Image string `json:"image,omitempty"`
	// Command is what its commands count as, "" where it has none.
	Command  string `json:"command,omitempty"`
	Digest   string `json:"digest"`
	Manifest string `json:"manifest,omitempty"`
}

// Revision is a state of a shard.
type Revision struct {
	// Place is that of [Event].
	Place  string            `json:"place,omitempty"`
	Shard  string            `json:"shard"`
	UID    string            `json:"uid"`
	Number uint64            `json:"number"`
	Data   map[string]string `json:"data"`
}

// History is all that was seen.
type History struct {
	// Name says which history it is: a seed and sizes.
	Name string `json:"name"`
	// Faults were injected: commands run again where a runner was killed, stopped or
	// replaced.
	Faults bool `json:"faults"`
	// Guard is for how long a runner may rely on a look at its entry, Delta is Δ.
	Guard time.Duration `json:"guard"`
	Delta time.Duration `json:"delta"`
	// Grace is for how long a stage stays after the last name of it has gone, Tomb the
	// manifest that deleted tags are put on; for histories with cleaners.
	Grace time.Duration `json:"grace,omitempty"`
	Tomb  string        `json:"tomb,omitempty"`

	Revisions []Revision `json:"-"`
	Events    []Event    `json:"-"`
}

// line is one line of a history's file: exactly one of the fields is set.
type line struct {
	History  *History  `json:"history,omitempty"`
	Revision *Revision `json:"revision,omitempty"`
	Event    *Event    `json:"event,omitempty"`
}

// Write writes a history as lines of JSON.
func Write(w io.Writer, h *History) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	lines := make([]line, 0, 1+len(h.Revisions)+len(h.Events))
	lines = append(lines, line{History: h})
	for i := range h.Revisions {
		lines = append(lines, line{Revision: &h.Revisions[i]})
	}
	for i := range h.Events {
		lines = append(lines, line{Event: &h.Events[i]})
	}
	for _, l := range lines {
		if err := e.Encode(l); err != nil {
			return fmt.Errorf("write a history: %w", err)
		}
	}
	return b.Flush()
}

// Read reads what [Write] wrote.
func Read(r io.Reader) (*History, error) {
	var h *History
	for d := json.NewDecoder(r); ; {
		var l line
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) && h != nil {
			return h, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read a history: %w", err)
		}
		switch {
		case h == nil && l.History != nil:
			h = l.History
		case h != nil && l.Revision != nil:
			h.Revisions = append(h.Revisions, *l.Revision)
		case h != nil && l.Event != nil:
			h.Events = append(h.Events, *l.Event)
		default:
			return nil, errors.New("read a history: a line that is none of its parts")
		}
	}
}
