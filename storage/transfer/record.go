package transfer

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
)

// Record is what two storages were found to name alike, by tag. Names of stages
// are written once, so that it need not be asked again. It spares requests and is
// never the truth: a name that is not listed any more is not taken from it.
type Record map[string]digest.Digest

// Record returns what is known to be the same on both sides after a copy: what was
// found so, what was named, and of what was known before it what was not looked at
// and the target still lists. What was withdrawn there is forgotten.
func (v *View) Record(known Record, r *Result) Record {
	rec := Record{}
	for tag, d := range known {
		if v.there[tag] {
			rec[tag] = d
		}
	}
	for _, n := range v.Names {
		delete(rec, n.Tag)
		if n.Same() {
			rec[n.Tag] = n.There
		}
	}
	maps.Copy(rec, r.Named)
	return rec
}

// Bounds of a record that is read.
const (
	maxRecord     = 256 << 20
	maxRecordLine = 512
)

// ReadRecord reads what [Record.Write] has written. A line that is none is left
// out: it costs two requests.
func ReadRecord(r io.Reader) (Record, error) {
	rec := Record{}
	lines := bufio.NewScanner(io.LimitReader(r, maxRecord))
	lines.Buffer(nil, maxRecordLine)
	for lines.Scan() {
		tag, d, ok := strings.Cut(lines.Text(), " ")
		if ok && storage.CheckTag(tag) == nil && digest.Digest(d).Validate() == nil {
			rec[tag] = digest.Digest(d)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the record of a sync: %w", err)
	}
	return rec, nil
}

// Write writes the record, a line for each tag in order.
func (r Record) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, tag := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(b, "%s %s\n", tag, r[tag])
	}
	return b.Flush()
}
