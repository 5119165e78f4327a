package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// front is what stands between one runner and the world: a proxy for the registry
// and one for the API server, which record what they pass on, and spoil some of it.
type front struct {
	runner  string
	record  *recorder
	dice    *dice
	rates   rates
	late    lateness
	weather *weather
	// repository is that of the stages storage; what others are asked for is
	// passed on without being recorded.
	repository string
	space      *space
	registry   upstream
	api        upstream
	servers    []*http.Server
}

// upstream is a real server.
type upstream struct {
	url       *url.URL
	transport http.RoundTripper
}

// open makes the runner's namespace and serves in it, at the servers' own addresses.
func (f *front) open(ctx context.Context, cert tls.Certificate) error {
	var err error
	if f.space, err = newSpace(ctx, f.registry.url.Host, f.api.url.Host); err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	f.serve(f.space.listeners[0], &http.Server{Handler: http.HandlerFunc(f.serveRegistry), ErrorLog: quiet})
	secured := &http.Server{
		Handler: http.HandlerFunc(f.serveAPI), ErrorLog: quiet,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
	}
	f.serve(tls.NewListener(f.space.listeners[1], secured.TLSConfig), secured)
	return nil
}

func (f *front) serve(l net.Listener, s *http.Server) {
	f.servers = append(f.servers, s)
	go func() { _ = s.Serve(l) }() // it ends by close
}

func (f *front) close() error {
	var errs []error
	for _, s := range f.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, f.space.close())...)
}

// maxBody bounds what is read of a request or an answer that is recorded.
const maxBody = 16 << 20

// answer is what a server said.
type answer struct {
	status int // 0: nothing, so nobody knows what it did
	header http.Header
	body   []byte
}

// patience bounds an exchange with a server that is passed on although nobody
// waits for it any more.
const patience = time.Minute

// ask sends a request to a server, whatever becomes of the runner's connection.
func (u upstream) ask(r *http.Request, body []byte) answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
	defer cancel()
	target := *r.URL
	target.Scheme, target.Host = u.url.Scheme, u.url.Host
	req, err := http.NewRequestWithContext(ctx, r.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return answer{}
	}
	req.Header, req.Host = r.Header.Clone(), u.url.Host
	req.Header.Del("Connection")
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return answer{}
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody)); err != nil {
		return answer{}
	}
	return a
}

// exchange is a request that is recorded.
type exchange struct {
	to upstream
	// deferrable: it may be done after the runner was cut off.
	deferrable bool
	// busy: the server is in a burst of errors.
	busy bool
	// note records it, with what the server said.
	note func(a answer, e history.Event)
}

// pass plays an exchange: it is the whole life of a recorded request.
func (f *front) pass(w http.ResponseWriter, r *http.Request, x exchange) {
	begin := f.record.now()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the runner is gone, and has said only half
	}
	done := f.fate(x)
	do := func(seen bool) answer {
		a := x.to.ask(r, body)
		x.note(a, history.Event{Runner: f.runner, Begin: begin, Finish: f.record.now(), Status: a.status, Seen: seen && a.status != 0})
		return a
	}
	switch done {
	case lost:
		panic(http.ErrAbortHandler)
	case refused:
		if f.dice.float() < 0.5 {
			do(false)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case late:
		f.weather.pending.run(func() {
			<-time.After(f.dice.upTo(f.late.write))
			do(false)
		})
		panic(http.ErrAbortHandler)
	}
	a := do(done == fine || done == delayed)
	f.reply(w, r, done, a)
}

// fate says what becomes of an exchange, and counts it.
func (f *front) fate(x exchange) fate {
	done := f.dice.throw(f.rates, x.deferrable)
	if x.busy {
		done = refused
	}
	if done != fine {
		f.weather.injected[done].Add(1)
	}
	return done
}

// reply gives the runner what it shall see of an answer.
func (f *front) reply(w http.ResponseWriter, r *http.Request, done fate, a answer) {
	switch {
	case done == dropped, a.status == 0:
		panic(http.ErrAbortHandler)
	case done == failed:
		w.WriteHeader(http.StatusBadGateway)
		return
	case done == delayed:
		select {
		case <-time.After(f.dice.upTo(f.late.answer)):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the runner may be gone
}

// stream passes on what is not recorded, blobs and watches, as it comes.
func (f *front) stream(w http.ResponseWriter, r *http.Request, to upstream, busy bool) {
	done := f.fate(exchange{busy: busy})
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to.url); p.Out.Host = p.In.Host },
		Transport: to.transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	switch done {
	case lost:
		panic(http.ErrAbortHandler)
	case refused:
		w.WriteHeader(http.StatusServiceUnavailable)
	case dropped, failed:
		proxy.ServeHTTP(&discarded{header: http.Header{}}, r)
		if done == dropped {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusBadGateway)
	default:
		proxy.ServeHTTP(w, r)
	}
}

// discarded is an answer that nobody gets.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(int)             {}
