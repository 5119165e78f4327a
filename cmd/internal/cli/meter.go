package cli

import (
	"fmt"
	"sync"
	"time"
)

// A meter's line is renewed so often on a terminal, and written so often elsewhere.
const (
	meterLive  = 100 * time.Millisecond
	meterPlain = 10 * time.Second
)

// meter shows how far one long work is, in one line. It may be used from several
// goroutines.
type meter struct {
	a     *app
	size  func() (columns, rows int) // nil where there is no terminal
	began time.Time

	mu    sync.Mutex
	last  time.Time
	shown bool
}

func (a *app) newMeter() *meter {
	now := a.host.Now()
	m := &meter{a: a, size: a.terminal(), began: now, last: now}
	if m.size != nil {
		m.last = time.Time{}
	}
	return m
}

// elapsed is the time since the meter was made.
func (m *meter) elapsed() time.Duration { return m.a.host.Now().Sub(m.began) }

// show shows a text where it is time to.
func (m *meter) show(text func() string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	every := meterPlain
	if m.size != nil {
		every = meterLive
	}
	now := m.a.host.Now()
	if now.Sub(m.last) < every {
		return
	}
	m.last, m.shown = now, true
	if m.size == nil {
		writeString(m.a.Err, text()+"\n")
		return
	}
	columns, _ := m.size()
	writeString(m.a.Err, "\r\x1b[2K"+cut(text(), columns-1))
}

// watch shows a text again and again until the returned function is called, which takes
// the line away. Nothing is shown while the text is "".
func (m *meter) watch(text func() string) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(redraw)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if now := text(); now != "" {
					m.show(func() string { return now })
				}
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		m.close()
	}
}

// line writes a line that stays.
func (m *meter) line(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
	writeString(m.a.Err, text+"\n")
}

// close takes the line away.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}

func (m *meter) clear() {
	if m.shown && m.size != nil {
		writeString(m.a.Err, "\r\x1b[2K")
	}
	m.shown = false
}

// flow says how much of a number of bytes is done, how fast that goes, and how
// long the rest takes at that rate.
func flow(done, total int64, took time.Duration) string {
	text := fmt.Sprintf("%s of %s", bytesText(done), bytesText(total))
	if took < time.Second || done == 0 {
		return text
	}
	rate := float64(done) / took.Seconds()
	left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left", text, bytesText(int64(rate)), shortDuration(left))
}
