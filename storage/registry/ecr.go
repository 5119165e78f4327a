package registry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/storage"
)

// ecr is the API of Amazon's registry, whose distribution API deletes nothing. It takes
// requests that are signed with the keys of an account, and no login of Docker's.
type ecr struct {
	tagsOnly
	s               *Storage
	base            *url.URL
	account, region string
}

// newECR takes the account and the region from the host's name:
// ACCOUNT.dkr.ecr.REGION.amazonaws.com.
func newECR(s *Storage, _ *url.URL) tagAPI {
	parts := strings.Split(s.host.name, ".")
	at := slices.IndexFunc(parts, func(p string) bool { return strings.HasPrefix(p, "ecr") })
	e := ecr{s: s, account: parts[0], region: parts[min(at+1, len(parts)-1)]}
	domain := strings.Join(parts[min(at+2, len(parts)):], ".")
	e.base = &url.URL{Scheme: "https", Host: "api.ecr." + e.region + "." + domain, Path: "/"}
	return e
}

// ecrFailure is why an image was not deleted.
type ecrFailure struct {
	Code   string `json:"failureCode"`
	Reason string `json:"failureReason"`
}

func (e ecr) deleteTag(ctx context.Context, op operation, tag string) error {
	keys, ok := awsKeysOf(e.s.host.o.Getenv)
	if !ok || e.s.host.o.Now == nil {
		return op.fail(ctx, &fault{storage.ErrUnauthorized, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"})
	}
	body, err := jsonPayload(map[string]any{
		"registryId": e.account, "repositoryName": e.s.repo.RepositoryStr(), "imageIds": []map[string]string{{"imageTag": tag}},
	})
	if err != nil {
		return err
	}
	header := http.Header{}
	header.Set("Content-Type", "application/x-amz-json-1.1")
	header.Set("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.BatchDeleteImage")
	r := request{method: http.MethodPost, url: e.base, header: header, body: body}
	if err := keys.sign(&r, e.region, "ecr", e.s.host.o.Now()); err != nil {
		return err
	}
	var answer struct {
		Failures []ecrFailure `json:"failures"`
	}
	if err := e.s.ask(ctx, op, r, &answer); err != nil {
		return err
	}
	if len(answer.Failures) == 0 {
		return nil
	}
	f := answer.Failures[0]
	class := storage.ErrInvalid
	if f.Code == "ImageNotFound" {
		class = storage.ErrNotFound
	}
	return op.fail(ctx, &fault{class, tidy(f.Code + ": " + f.Reason)})
}

// awsKeys sign requests.
type awsKeys struct{ id, secret, session string }

func awsKeysOf(getenv func(string) string) (awsKeys, bool) {
	if getenv == nil {
		return awsKeys{}, false
	}
	k := awsKeys{getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY"), getenv("AWS_SESSION_TOKEN")}
	return k, k.id != "" && k.secret != ""
}

// sign adds the headers of AWS Signature Version 4 to a request without a query.
func (k awsKeys) sign(r *request, region, service string, now time.Time) error {
	body, err := readPayload(r.body)
	if err != nil {
		return err
	}
	stamp := now.UTC().Format("20060102T150405Z")
	r.header.Set("X-Amz-Date", stamp)
	if k.session != "" {
		r.header.Set("X-Amz-Security-Token", k.session)
	}
	names := []string{"host"}
	values := map[string]string{"host": r.url.Host}
	for name, v := range r.header {
		lower := strings.ToLower(name)
		names, values[lower] = append(names, lower), strings.TrimSpace(v[0])
	}
	slices.Sort(names)
	var canonical strings.Builder
	canonical.WriteString(r.method + "\n" + r.url.EscapedPath() + "\n\n")
	for _, n := range names {
		canonical.WriteString(n + ":" + values[n] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + hexSum(body))
	scope := stamp[:8] + "/" + region + "/" + service + "/aws4_request"
	key := []byte("AWS4" + k.secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hexSum([]byte(canonical.String()))))
	r.header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.id+"/"+scope+", SignedHeaders="+signed+", Signature="+signature)
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text)) // never fails
	return h.Sum(nil)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
