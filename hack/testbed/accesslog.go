package testbed

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Request is one line of a registry's access log.
type Request struct {
	Method string
	// Path is the request URI without its query.
	Path   string
	Status int
	// Bytes is the size of the response's body.
	Bytes int64
}

// combined matches Apache's combined log format as far as it is used here.
var combined = regexp.MustCompile(`^\S+ \S+ \S+ \[[^]]*\] "([A-Z]+) (\S+) [^"]*" (\d{3}) (\d+)`)

// parseAccess reads one line; it returns false for lines of other kinds. mark
// is the value of the query's mark, which [Registry.AccessLog] sends.
func parseAccess(line string) (r Request, mark string, ok bool) {
	m := combined.FindStringSubmatch(line)
	if m == nil {
		return Request{}, "", false
	}
	path, query, _ := strings.Cut(m[2], "?")
	status, err := strconv.Atoi(m[3])
	if err != nil {
		return Request{}, "", false
	}
	size, err := strconv.ParseInt(m[4], 10, 64)
	if err != nil {
		return Request{}, "", false
	}
	mark, _ = strings.CutPrefix(query, markQuery)
	if !strings.HasPrefix(query, markQuery) {
		mark = ""
	}
	return Request{Method: m[1], Path: path, Status: status, Bytes: size}, mark, true
}

const markQuery = "testbed-mark="

// accessLog collects requests from a server's output.
type accessLog struct {
	mu       sync.Mutex
	requests []Request
	marks    map[string]chan struct{}
	serial   int
}

// read takes lines from r until it ends.
func (l *accessLog) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if req, mark, ok := parseAccess(lines.Text()); ok {
			l.add(req, mark)
		}
	}
	// An over-long line ends the scan; the server must be able to go on writing.
	_, _ = io.Copy(io.Discard, r)
}

func (l *accessLog) add(r Request, mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mark == "" {
		l.requests = append(l.requests, r)
		return
	}
	if seen, ok := l.marks[mark]; ok {
		close(seen)
		delete(l.marks, mark)
	}
}

// mark returns a new mark and a channel that is closed when it is read.
func (l *accessLog) mark() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marks == nil {
		l.marks = map[string]chan struct{}{}
	}
	l.serial++
	name, seen := fmt.Sprint(l.serial), make(chan struct{})
	l.marks[name] = seen
	return name, seen
}

func (l *accessLog) snapshot() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Request(nil), l.requests...)
}

func (l *accessLog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.requests)
}

func (l *accessLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = nil
}
