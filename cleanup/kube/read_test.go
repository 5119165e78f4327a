package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
)

// api is an API server that answers paths with what it is told.
func api(t *testing.T, answers map[string]http.HandlerFunc) Cluster {
	t.Helper()
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc(path, answer)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return Cluster{Name: "prod", Config: &rest.Config{Host: s.URL}}
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func refuses(status int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"message":%q}`, message)
	}
}

const (
	onlyPods = `{"resources":[{"name":"pods","kind":"Pod","verbs":["list"]},{"name":"pods/log","kind":"Pod","verbs":["get"]},{"name":"nodes","kind":"Node","verbs":["list"]}]}`
	noGroups = `{"groups":[]}`
	oneGroup = `{"groups":[{"name":"apps.test","versions":[{"groupVersion":"apps.test/v2"},{"groupVersion":"apps.test/v1"}],"preferredVersion":{"groupVersion":"apps.test/v2"}}]}`
)

func pod() string {
	return `{"metadata":{"name":"web","namespace":"shop"},"spec":{"image":"x@` + known().String() + `"}}`
}

func TestAListingIsReadPageByPage(t *testing.T) {
	c := api(t, map[string]http.HandlerFunc{
		"/api/v1": says(onlyPods), "/apis": says(noGroups),
		"/api/v1/pods": func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("continue") {
			case "":
				fmt.Fprint(w, `{"metadata":{"continue":"2"},"items":[]}`)
			case "2":
				fmt.Fprint(w, `{"metadata":{"continue":"3"},"items":[{}]}`)
			default:
				fmt.Fprintf(w, `{"metadata":{},"items":[%s]}`, pod())
			}
		},
	})
	found, failed, err := Read(t.Context(), c, newQuery())
	if err != nil || len(failed) > 0 || len(found) != 1 {
		t.Errorf("found %v (%v)", found, err)
	}
}

func TestPagesThatExpireAreReadAnew(t *testing.T) {
	var gone atomic.Bool
	c := api(t, map[string]http.HandlerFunc{
		"/api/v1": says(onlyPods), "/apis": says(noGroups),
		"/api/v1/pods": func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Query().Get("continue") == "":
				fmt.Fprint(w, `{"metadata":{"continue":"2"},"items":[]}`)
			case gone.CompareAndSwap(false, true):
				refuses(http.StatusGone, "expired")(w, r)
			default:
				fmt.Fprintf(w, `{"items":[%s]}`, pod())
			}
		},
	})
	found, failed, err := Read(t.Context(), c, newQuery())
	if err != nil || len(failed) > 0 || len(found) != 1 || !gone.Load() {
		t.Errorf("found %v (%v)", found, err)
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]http.HandlerFunc
		want    string
		denied  bool
	}{
		"a missing permission": {map[string]http.HandlerFunc{
			"/api/v1": says(onlyPods), "/apis": says(noGroups), "/api/v1/pods": refuses(403, "no"),
		}, "cluster prod: lacks the permission to list pods in all namespaces: no", true},
		"a custom resource that may not be listed": {map[string]http.HandlerFunc{
			"/api/v1": says(`{}`), "/apis": says(oneGroup), "/apis/apps.test/v1": says(`{}`),
			"/apis/apps.test/v2":        says(`{"resources":[{"name":"things","kind":"Thing","verbs":["list"]}]}`),
			"/apis/apps.test/v2/things": refuses(403, "no"),
		}, "cluster prod: lacks the permission to list things.apps.test in all namespaces: no", true},
		"an API server that knows nobody": {map[string]http.HandlerFunc{"/api/v1": refuses(401, "who?")}, "cluster prod: cannot be asked what it has: who?", true},
		"a group whose server is away": {map[string]http.HandlerFunc{
			"/api/v1": says(onlyPods), "/api/v1/pods": says(`{}`), "/apis": says(oneGroup), "/apis/apps.test/v2": refuses(503, "away"),
		}, "cluster prod: cannot list *.apps.test: away", false},
		"pages without an end": {map[string]http.HandlerFunc{
			"/api/v1": says(onlyPods), "/apis": says(noGroups), "/api/v1/pods": says(`{"metadata":{"continue":"x"}}`),
		}, "cluster prod: cannot list pods: the pages of the listing do not end", false},
		"a proxy that answers in HTML": {map[string]http.HandlerFunc{"/api/v1": says("<html>")}, "cluster prod: cannot be asked what it has: invalid character '<' looking for beginning of value", false},
		"a release of Helm that is broken": {map[string]http.HandlerFunc{
			"/api/v1": says(`{"resources":[{"name":"secrets","kind":"Secret","verbs":["list"]}]}`), "/apis": says(noGroups),
			"/api/v1/secrets": says(`{"items":[{"type":"helm.sh/release.v1","metadata":{"name":"r","namespace":"n"},"data":{"release":"?"}}]}`),
		}, "cluster prod: cannot list secrets: Secret n/r: the release that Helm keeps here cannot be read: illegal base64 data at input byte 0", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, all, err := Read(t.Context(), api(t, c.answers), newQuery())
			if err != nil || len(all) != 1 || all[0].Error() != c.want || all[0].Denied() != c.denied || all[0].Hint() == "" {
				t.Errorf("%v (%v), want %s", all, err, c.want)
			}
		})
	}
}

func TestOnlySecretsOfHelmAreAskedFor(t *testing.T) {
	var asked atomic.Pointer[string]
	c := api(t, map[string]http.HandlerFunc{
		"/api/v1": says(`{"resources":[{"name":"secrets","kind":"Secret","verbs":["list"]}]}`), "/apis": says(noGroups),
		"/api/v1/secrets": func(w http.ResponseWriter, r *http.Request) {
			s := r.URL.Query().Get("fieldSelector")
			asked.Store(&s)
			fmt.Fprint(w, `{}`)
		},
	})
	if _, failed, err := Read(t.Context(), c, newQuery()); err != nil || len(failed) > 0 || *asked.Load() != helmReleases {
		t.Errorf("asked for %q (%v)", *asked.Load(), err)
	}
}

func TestAClusterThatIsGoneIsAnError(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	_, failed, err := Read(t.Context(), Cluster{Name: "old", Config: &rest.Config{Host: s.URL}}, newQuery())
	if err != nil || len(failed) != 1 || !strings.HasPrefix(failed[0].Error(), "cluster old: cannot be asked what it has: ") || failed[0].Denied() {
		t.Errorf("%v (%v)", failed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Read(ctx, Cluster{Config: &rest.Config{Host: s.URL}}, newQuery()); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that was ended: %v", err)
	}
}

func TestPagesThatAreTooLargeAreHalved(t *testing.T) {
	var limits []string
	c := api(t, map[string]http.HandlerFunc{"/api/v1/configmaps": func(w http.ResponseWriter, r *http.Request) {
		limit := r.URL.Query().Get("limit")
		limits = append(limits, limit)
		if limit == "12" {
			fmt.Fprintf(w, `{"items":[%s]}`, pod())
			return
		}
		fmt.Fprint(w, strings.Repeat(" ", 5000))
	}})
	client, err := newClient(c, "test")
	if err != nil {
		t.Fatal(err)
	}
	client.most = 4000
	q := newQuery()
	q.PageSize = defaultPage
	r := &reader{api: client, query: q, finds: newFinds("prod", q)}
	err = r.list(t.Context(), resource{path: "/api/v1/configmaps", name: "configmaps", kind: "ConfigMap"})
	if got := strings.Join(limits, " "); err != nil || got != "50 25 12" || len(r.finds.mentions()) != 1 {
		t.Errorf("asked for %s objects, found %v (%v)", got, r.finds.mentions(), err)
	}
	client.most = 10
	limits = nil
	err = r.list(t.Context(), resource{path: "/api/v1/configmaps", name: "configmaps", kind: "ConfigMap"})
	if got := strings.Join(limits, " "); !errors.Is(err, errTooLarge) || got != "50 25 12 6 3 1" {
		t.Errorf("one object that is too large: asked for %s (%v)", got, err)
	}
}
