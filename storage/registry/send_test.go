package registry

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEveryRequestHasAnIDThatTheServerGets(t *testing.T) {
	f := newFaulty(t, nil)
	away := newFaulty(t, http.NotFoundHandler())
	var mu sync.Mutex
	got := map[string]bool{}
	f.fault(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get(HeaderRequestID)] = true
		return r.Method == http.MethodGet && status(http.StatusTemporaryRedirect, "Location", away.URL+"/objects/s3cret?sig=s3cret")(w, r)
	})
	rec := &recorder{}
	o := rec.options()
	n, now := 0, time.Unix(0, 0)
	o.RequestID = func() string { mu.Lock(); defer mu.Unlock(); n++; return fmt.Sprint("id-", n) }
	o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Second); return now }
	s := newStorage(t, f.address("shop/stages"), o)
	b := noise(1, 100)
	if err := s.PushBlob(t.Context(), blobOf(b), content(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, s, blobOf(b)); err == nil {
		t.Error("the blob is read from nowhere")
	}
	for _, e := range rec.exchanges {
		if e.ID == "" || e.Took < time.Second || e.Kind == KindRegistry && !got[e.ID] {
			t.Errorf("%+v has no id that the server knows, or took no time", e)
		}
		if strings.Contains(e.Path, "s3cret") || strings.Contains(e.Path, "uploads/") && !strings.HasSuffix(e.Path, "/uploads/") {
			t.Errorf("%+v shows what may be secret", e)
		}
	}
	if len(rec.exchanges) != 4 {
		t.Errorf("observed %+v", rec.exchanges)
	}
}
