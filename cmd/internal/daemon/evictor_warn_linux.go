package daemon

import "time"

// warnAgain is after how long something that is still wrong is warned of again.
const warnAgain = time.Hour

// warning is something about eviction that a person should see to.
type warning struct {
	// text tells it from another about the same subject.
	text string
	// figures are bytes by what they are of. They count as changed from slack on.
	figures map[string]int64
	slack   int64
}

// changed reports whether w says something that old does not.
func (w warning) changed(old warning) bool {
	if w.text != old.text {
		return true
	}
	for of := range old.figures {
		if w.differs(old, of) {
			return true
		}
	}
	for of := range w.figures {
		if w.differs(old, of) {
			return true
		}
	}
	return false
}

func (w warning) differs(old warning, of string) bool {
	d := w.figures[of] - old.figures[of]
	return max(d, -d) >= max(w.slack, 1)
}

// warnings are the last ones by their subjects. They keep what stays wrong from
// being told at each look.
type warnings map[string]given

type given struct {
	warning
	at time.Time
}

// due reports whether to give w, which counts as given then: when it says something
// new, and else about once an hour.
func (all warnings) due(subject string, w warning, now time.Time) bool {
	last, ok := all[subject]
	if ok && now.Sub(last.at) < warnAgain && !w.changed(last.warning) {
		return false
	}
	all[subject] = given{w, now}
	return true
}

// over has the next warning about a subject given at once: things were well meanwhile.
func (all warnings) over(subject string) { delete(all, subject) }

// stays is the warning of a volume that a pass left too full. That a hundredth of
// the volume has more or less of something says nothing new.
func stays(p passed) warning {
	w := warning{text: passShort, figures: map[string]int64{"not Cairn's": p.Foreign}, slack: p.Volume.Total / 100}
	for _, b := range p.Blocked {
		w.figures[b.Reason] = b.Bytes
	}
	return w
}
