package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	x := exchange{to: f.registry, busy: busy}
	switch {
	case ok && r.Method == http.MethodPut:
		kept := &keeping{ReadCloser: r.Body}
		r.Body = kept
		x.deferrable = !isDigest(ref)
		x.note = func(_ answer, e history.Event) { f.notePut(ref, kept.read, e) }
	case ok && r.Method == http.MethodDelete:
		x.note = func(_ answer, e history.Event) { f.noteDelete(ref, e) }
	case ok && !isDigest(ref) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		x.note = func(a answer, e history.Event) { f.noteTag(ref, r.Method, a, e) }
	default:
		f.stream(w, r, f.registry, busy)
		return
	}
	f.pass(w, r, x)
}

func (f *front) notePut(ref string, body []byte, e history.Event) {
	e.Kind, e.Digest, e.Lists = history.TagPut, digestOf(body), listed(body)
	if isDigest(ref) {
		e.Kind = history.Push
	} else {
		e.Tag = ref
	}
	f.record.add(e)
}

// listed returns the manifests of an index, or the layers of an image.
func listed(body []byte) []string {
	var m manifest
	if json.Unmarshal(body, &m) != nil {
		return nil
	}
	var all []string
	for _, d := range append(m.Manifests, m.Layers...) {
		all = append(all, d.Digest)
	}
	return all
}

// tomb returns the digest of the manifest that deleted tags are put on. The stress
// test knows it by its bytes.
func tomb() string {
	return digestOf([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"dev.cairn.deleted":"true"}}`))
}

func (f *front) noteDelete(ref string, e history.Event) {
	e.Kind, e.Tag = history.Delete, ref
	if isDigest(ref) {
		e.Tag, e.Digest = "", ref
	}
	f.record.add(e)
}

func (f *front) noteTag(ref, method string, a answer, e history.Event) {
	e.Kind, e.Tag = history.TagRead, ref
	if a.status == http.StatusOK {
		e.Digest = a.header.Get("Docker-Content-Digest")
		if method == http.MethodGet {
			e.Digest = digestOf(a.body)
		}
	}
	f.record.add(e)
}

func isDigest(ref string) bool { return strings.HasPrefix(ref, "sha256:") }

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
