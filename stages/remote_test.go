package stages

import (
	"errors"
	"strings"
	"testing"
)

func TestGitURLs(t *testing.T) {
	for _, url := range []string{
		"https://example.com/lib.git", "https://git.example.com:8443/a/b%20c", "ssh://git@example.com/lib.git", "ssh://example.com:22/~user/lib",
		"git@github.com:owner/lib.git", "deploy@[::1]:lib", "file:///srv/git/lib.git", "https://[::1]:8443/lib",
	} {
		if err := CheckGitURL(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{
		"", "-x", "--upload-pack=touch /tmp/x", "ext::sh -c id", "ext::git@x:y", "http://example.com/lib", "git://example.com/lib", "/srv/lib", "./lib", "../lib",
		"https://example.com/lib\n", "https://example.com/lib\n-x", "https://example.com/li b", "https://example.com", "https://example.com/", "https:///lib",
		"ssh://-oProxyCommand=id/lib", "git@-oProxyCommand=id:lib", "-git@example.com:lib", "git@example.com:-lib", "ssh://example.com/-lib",
		"https://example.com/lib?token=x", "https://example.com/lib#x", "https://example.com/../lib", "file://host/lib", "file:///../etc", "file:///", "transport::https://example.com/x",
		"https://example.com/lib\x00", `https://example.com/l"ib`, "https://exämple.com/lib", "HTTPS://example.com/lib", "example.com:lib",
	} {
		if err := CheckGitURL(url); !errors.Is(err, ErrGitURL) {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, url := range []string{"https://user:sekret@example.com/lib", "https://token@example.com/lib", "ssh://git:sekret@example.com/lib", "http://a:b@c/d", "ssh://-x@example.com/lib", "HTTPS://a:b@c/d"} {
		if err := CheckGitURL(url); !errors.Is(err, ErrGitLogin) || strings.Contains(err.Error(), "sekret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestGitRefs(t *testing.T) {
	for _, ref := range []string{"HEAD", "refs/heads/main", "refs/tags/v1.2.3", "refs/heads/feature/x-y", strings.Repeat("0a", 20), strings.Repeat("0a", 32)} {
		if err := CheckGitRef(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{
		"", "main", "-x", "refs/heads/", "refs/heads/-x", "refs/heads/a..b", "refs/heads/a b", "refs/heads/*", "refs/heads/a^{}", "refs/heads/a:b", "refs/heads/a.lock",
		"refs/heads/a/", "refs/heads/a//b", "refs/heads/.a", "refs/heads/a/.b", "refs/heads/a\n", "refs/notes/x", "+refs/heads/a", "refs/heads/a@{1}", strings.Repeat("0A", 20), strings.Repeat("0", 39), "refs/heads/a.",
	} {
		if CheckGitRef(ref) == nil {
			t.Errorf("%q is taken for a ref", ref)
		}
	}
}

func FuzzCheckGitURL(f *testing.F) {
	f.Add("https://example.com/lib")
	f.Add("git@example.com:lib")
	f.Fuzz(func(t *testing.T, url string) {
		if CheckGitURL(url) == nil && (strings.HasPrefix(url, "-") || strings.Contains(url, "::") && !strings.Contains(url, "/") || strings.ContainsAny(url, " \n\r\t\x00'\"\\$`;|&<>?#*")) {
			t.Errorf("%q is allowed", url)
		}
	})
}
