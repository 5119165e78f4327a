package transfer

import "sync/atomic"

// Progress counts while a copy goes on. Its zero value is ready; it is safe for
// concurrent use, and a nil one counts nothing.
type Progress struct {
	names, seen            atomic.Int64
	units, done            atomic.Int64
	blobs, moved           atomic.Int64
	bytes, settled, copied atomic.Int64
}

// Amounts are what a [Progress] has counted at a moment.
type Amounts struct {
	// Names have been found, and Seen of them looked at.
	Names, Seen int64
	// Units are to be named or stored, and Done of them are.
	Units, Done int64
	// Blobs are to come, and Moved of them are there.
	Blobs, Moved int64
	// Bytes are the sizes of all those blobs, Settled of those that are there and
	// of the parts that were sent of others, Copied of what was really sent.
	Bytes, Settled, Copied int64
}

// Amounts returns what has been counted so far.
func (p *Progress) Amounts() Amounts {
	return Amounts{
		Names: p.names.Load(), Seen: p.seen.Load(), Units: p.units.Load(), Done: p.done.Load(),
		Blobs: p.blobs.Load(), Moved: p.moved.Load(),
		Bytes: p.bytes.Load(), Settled: p.settled.Load(), Copied: p.copied.Load(),
	}
}

func (p *Progress) found(names int) {
	if p != nil {
		p.names.Add(int64(names))
	}
}

func (p *Progress) looked() {
	if p != nil {
		p.seen.Add(1)
	}
}

func (p *Progress) begin(plan *Plan) {
	if p != nil {
		p.units.Add(int64(len(plan.Units)))
		p.blobs.Add(int64(plan.Blobs))
		p.bytes.Add(plan.Bytes)
	}
}

// sent counts n bytes of a blob that is on its way; a negative number takes those
// back that have to be sent again.
func (p *Progress) sent(n int64) {
	if p != nil {
		p.settled.Add(n)
		p.copied.Add(max(n, 0))
	}
}

// arrived counts a blob that is there. The bytes that were not sent just now are missing from the sum.
func (p *Progress) arrived(unsent int64) {
	if p != nil {
		p.moved.Add(1)
		p.settled.Add(unsent)
	}
}

func (p *Progress) ended() {
	if p != nil {
		p.done.Add(1)
	}
}
