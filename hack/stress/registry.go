package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/cairnbuild/cairn/hack/history"
)

// serveRegistry is the registry as the runner sees it. It records what happens to
// manifests of the stages storage.
func (f *front) serveRegistry(w http.ResponseWriter, r *http.Request) {
	defer f.weather.pending.begin()()
	busy := f.weather.bursting.Load()
	ref, ok := strings.CutPrefix(r.URL.Path, "/v2/"+f.repository+"/manifests/")
	recorded := ok && (r.Method == http.MethodPut || !isDigest(ref) && (r.Method == http.MethodGet || r.Method == http.MethodHead))
	if !recorded {
		f.stream(w, r, f.registry, busy)
		return
	}
	if r.Method != http.MethodPut {
		f.pass(w, r, exchange{to: f.registry, busy: busy, note: func(a answer, e history.Event) {
			e.Kind, e.Tag = history.TagRead, ref
			if a.status == http.StatusOK {
				e.Digest = a.header.Get("Docker-Content-Digest")
				if r.Method == http.MethodGet {
					e.Digest = digestOf(a.body)
				}
			}
			f.record.add(e)
		}})
		return
	}
	kept := &keeping{ReadCloser: r.Body}
	r.Body = kept
	f.pass(w, r, exchange{to: f.registry, busy: busy, deferrable: !isDigest(ref), note: func(_ answer, e history.Event) {
		e.Kind, e.Digest = history.TagPut, digestOf(kept.read)
		if isDigest(ref) {
			e.Kind = history.Push
		} else {
			e.Tag = ref
		}
		f.record.add(e)
	}})
}

func isDigest(ref string) bool { return strings.HasPrefix(ref, "sha256:") }

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
