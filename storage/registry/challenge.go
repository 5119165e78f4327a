package registry

import (
	"net/http"
	"strings"
)

// Bounds of a WWW-Authenticate header.
const (
	maxChallengeHeader = 16 << 10
	maxChallenges      = 8
)

// challenge is one way in which a server wants to be convinced (RFC 9110, 11.6.1).
type challenge struct {
	// scheme is lower-case.
	scheme string
	// params have lower-case names.
	params map[string]string
}

// parseChallenges reads all challenges of all fields of the header. What it
// cannot read ends the field.
func parseChallenges(h http.Header) []challenge {
	var out []challenge
	for _, field := range h.Values("Www-Authenticate") {
		if len(field) <= maxChallengeHeader {
			out = append(out, parseField(field)...)
		}
	}
	return out[:min(len(out), maxChallenges)]
}

func parseField(s string) []challenge {
	var out []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutToken(s)
		if word == "" {
			return out
		}
		rest = strings.TrimLeft(rest, " \t")
		value, ok := strings.CutPrefix(rest, "=")
		if !ok {
			out = append(out, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			s = rest
			continue
		}
		if len(out) == 0 {
			return nil
		}
		text, after, ok := cutValue(strings.TrimLeft(value, " \t"))
		if !ok {
			return out
		}
		out[len(out)-1].params[strings.ToLower(word)] = text
		s = after
	}
}

// cutToken splits s behind the token that it begins with (RFC 9110, 5.6.2).
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutValue splits s behind the value that it begins with, which is quoted or not.
func cutValue(s string) (value, rest string, ok bool) {
	quoted, isQuoted := strings.CutPrefix(s, `"`)
	if !isQuoted {
		// Unquoted addresses are wrong and seen; they end at a comma or a space.
		end := strings.IndexAny(s, " \t,")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], true
	}
	var b strings.Builder
	for i := 0; i < len(quoted); i++ {
		switch c := quoted[i]; {
		case c == '"':
			return b.String(), quoted[i+1:], true
		case c == '\\' && i+1 < len(quoted):
			i++
			b.WriteByte(quoted[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
