package registry

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/cairnbuild/cairn/storage"
)

func TestAddresses(t *testing.T) {
	client := newClient(t, (&recorder{}).options())
	for _, tt := range []struct{ in, want, fault string }{
		{"registry.example.com/shop/stages", "registry.example.com/shop/stages", ""},
		{"127.0.0.1:5000/shop", "127.0.0.1:5000/shop", ""},
		{"[::1]:5000/shop", "[::1]:5000/shop", ""},
		{"localhost/shop", "localhost/shop", ""},
		{"docker.io/shop/stages", "index.docker.io/shop/stages", ""},
		{"shop/stages", "index.docker.io/shop/stages", ""},
		{"", "", "empty"},
		{"https://registry.example.com/shop", "", "scheme"},
		{"registry.example.com/shop:tag", "", "tag"},
		{"registry.example.com/shop@sha256:abc", "", "digest"},
		{"registry.example.com/Shop", "", "lower-case"},
		{"registry.example.com:5000", "", "path"},
		{"registry.example.com/shop/", "", "slash"},
		{"registry.example.com/sh op", "", "white space"},
		{"registry.example.com/shop\n", "", "white space"},
		{":local", "", "path"},
		{"registry.example.com/sh!op", "", "only contain"},
	} {
		s, err := client.Open(tt.in)
		switch {
		case tt.fault == "" && err != nil:
			t.Errorf("%q: %v", tt.in, err)
		case tt.fault == "" && s.Address() != tt.want:
			t.Errorf("%q: got %s, want %s", tt.in, s.Address(), tt.want)
		case tt.fault != "" && (!errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), tt.fault)):
			t.Errorf("%q: got %v, want a word about %q", tt.in, err, tt.fault)
		}
	}
}

func TestPlainHTTPIsForLoopbackOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3:5000": true, "[::1]:5000": true, "::1": true, "localhost:80": true, "localhost": true,
		"[::ffff:127.0.0.1]:1": true, "10.0.0.1": false, "localhost.example.com": false, "example.com": false, "127.0.0.1.example.com": false, "": false,
	} {
		if got := loopback(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

func TestAddressesThatAnswersName(t *testing.T) {
	for _, tt := range []struct{ base, location, want string }{
		{"https://a.example/v2/x", "/v2/y?s=1", "https://a.example/v2/y?s=1"},
		{"https://a.example/v2/x", "https://b.example/y", "https://b.example/y"},
		{"https://a.example/v2/x", "https://ann:pw@b.example/y#f", "https://b.example/y"},
		{"http://127.0.0.1:1/v2/x", "http://localhost:2/y", "http://localhost:2/y"},
		{"http://127.0.0.1:1/v2/x", "https://b.example/y", "https://b.example/y"},
		{"https://a.example/v2/x", "http://a.example/y", ""},
		{"https://localhost/v2/x", "http://localhost/y", ""},
		{"http://127.0.0.1/v2/x", "http://b.example/y", ""},
		{"https://a.example/v2/x", "file:///etc/passwd", ""},
		{"https://a.example/v2/x", "", ""},
		{"https://a.example/v2/x", "https://%zz/", ""},
	} {
		got, err := follow(parseURL(t, tt.base), tt.location)
		switch {
		case tt.want == "" && !errors.Is(err, errUnsafeURL):
			t.Errorf("%s to %s: got %v, %v, want it refused", tt.base, tt.location, got, err)
		case tt.want != "" && (err != nil || got.String() != tt.want):
			t.Errorf("%s to %s: got %v, %v, want %s", tt.base, tt.location, got, err, tt.want)
		}
	}
}

func TestChallenges(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{[]string{`Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"`}, "bearer[realm=https://a/t scope=repository:x:pull,push service=s]"},
		{[]string{`Basic realm="Registry Realm"`}, "basic[realm=Registry Realm]"},
		{[]string{`Negotiate, Basic realm="a", Bearer realm = b , service=c`}, "negotiate[] basic[realm=a] bearer[realm=b service=c]"},
		{[]string{`Negotiate`, `BASIC Realm="a \"quoted\" b"`}, `negotiate[] basic[realm=a "quoted" b]`},
		{[]string{`Bearer realm="never ends`}, "bearer[]"},
		{[]string{`=x`, ``, `"`}, ""},
	} {
		var got []string
		for _, c := range parseChallenges(http.Header{"Www-Authenticate": tt.in}) {
			var params []string
			for _, k := range slices.Sorted(maps.Keys(c.params)) {
				params = append(params, k+"="+c.params[k])
			}
			got = append(got, fmt.Sprint(c.scheme, params))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, s, tt.want)
		}
	}
}

func TestNextLinks(t *testing.T) {
	for in, want := range map[string]string{
		`</v2/x/tags/list?last=b&n=2>; rel="next"`: "/v2/x/tags/list?last=b&n=2",
		`<a>; rel=prev, <b>; title="x"; REL=next`:  "b",
		`<a>; rel="last next"`:                     "a",
		`<a>; rel="nextish"`:                       "",
		`<a`:                                       "",
		`rel="next"`:                               "",
		`<https://e/?a=1,2;3>; rel="next", <b>; rel="first"`: "https://e/?a=1,2;3",
	} {
		if got := nextLink([]string{in}); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		date, after string
		want        time.Duration
	}{
		{"", "5", 5 * time.Second},
		{"", "-5", 0},
		{"", "soon", 0},
		{"Fri, 02 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:05:05 GMT", time.Minute},
		{"Fri, 02 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:03:05 GMT", 0},
		{"", "Fri, 02 Jan 2026 03:05:05 GMT", 0},
	} {
		if got := retryAfter(http.Header{"Retry-After": {tt.after}, "Date": {tt.date}}); got != tt.want {
			t.Errorf("%q at %q: got %v, want %v", tt.after, tt.date, got, tt.want)
		}
	}
}

func TestTagsArePaged(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	page := func(next, tags string) hook {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if next != "" {
				w.Header().Set("Link", "<"+next+`>; rel="next"`)
			}
			return answer("", 200, nil, `{"name":"shop/stages","tags":`+tags+`}`)(w, r)
		}
	}
	tests := []struct {
		name   string
		second hook
		want   string
		class  error
	}{
		{"to the end", page("", `["c"]`), "a b c", nil},
		{"and a page may be empty", page("", `null`), "a b", nil},
		{"and errors come after what there was", answer("", 403, nil, ""), "a b", storage.ErrDenied},
		{"but not on another host", page("https://other.example.com/x", `["c"]`), "a b", storage.ErrInvalid},
		{"but not in circles", page("/v2/shop/stages/tags/list?last=b", `["c"]`), "a b", storage.ErrInvalid},
		{"but not with what is no tag", page("", `["c/../d"]`), "a b", storage.ErrCorrupt},
		{"but not without JSON", answer("", 200, nil, "<html>"), "a b", storage.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.fault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.RawQuery == "last=b" {
					return tt.second(w, r)
				}
				return page("/v2/shop/stages/tags/list?last=b", `["a","b"]`)(w, r)
			})
			var got []string
			var last error
			for tag, err := range s.Tags(t.Context()) {
				if last = err; err == nil {
					got = append(got, tag)
				}
			}
			wantClass(t, last, tt.class)
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %s", got, tt.want)
			}
		})
	}
	f.fault(page("/v2/shop/stages/tags/list?last=b", `["a","b"]`))
	for range s.Tags(t.Context()) {
		break
	}
	if got := f.requests(); got != "GET" {
		t.Errorf("sent %s after the caller has ended", got)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for _, o := range []Options{{CAFile: "/absent/ca.pem"}, {CAFile: "parse_test.go"}} {
		if _, err := NewClient(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/t",service="s"`)
	f.Add(`Negotiate, Basic realm="\"", x`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(http.Header{"Www-Authenticate": {s, s}}) {
			if c.scheme == "" || c.params == nil {
				t.Errorf("%q gives %+v", s, c)
			}
		}
	})
}

func FuzzFollow(f *testing.F) {
	f.Add("/v2/x?state=a")
	f.Add("http://a.example/")
	f.Add("//b.example/x")
	f.Fuzz(func(t *testing.T, s string) {
		base := &url.URL{Scheme: "https", Host: "a.example", Path: "/v2/x"}
		if u, err := follow(base, s); err == nil && (u.Scheme != "https" || u.User != nil || u.Host == "") {
			t.Errorf("%q is followed to %v", s, u)
		}
		base.Scheme = "http"
		if u, err := follow(base, s); err == nil && u.Scheme != "https" && !loopback(u.Host) {
			t.Errorf("%q is followed to %v", s, u)
		}
	})
}

func FuzzNextLink(f *testing.F) {
	f.Add(`<a>; rel="next"`)
	f.Add(`<a>; rel=prev, <b>; rel=next`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := nextLink([]string{s}); !strings.Contains(s, "<"+got+">") && got != "" {
			t.Errorf("%q gives %q", s, got)
		}
	})
}

func FuzzParseErrorBody(f *testing.F) {
	f.Add("application/json", []byte(`{"errors":[{"code":"DENIED","message":"no"}]}`))
	f.Add("text/plain", []byte("\x1b[31m https://a:b@c/?d"))
	f.Add("", []byte(`{"error":7,"details":"x"}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		code, message := parseErrorBody(contentType, body)
		for _, s := range []string{code, message} {
			if len([]rune(s)) > maxErrorText+1 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q gives %q", body, s)
			}
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add([]byte(`{"token":"a","expires_in":300}`))
	f.Add([]byte(`{"access_token":"a b"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		token, life, err := parseToken(body)
		if err == nil && (token == "" || strings.ContainsAny(token, " \r\n") || life <= 0) {
			t.Errorf("%q gives %q for %v", body, token, life)
		}
	})
}
