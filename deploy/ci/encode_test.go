package ci

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// hostile are values that a branch, a tag or a title could have.
func hostile() []string {
	return []string{
		"", "main", "v1$(id)", "`id`", "'", "''", `'"'"'`, `\`, `\'`, `"; id; "`, "a\nb", "a\n", "\n", "a\r\nb", "%PATH%", "$HOME", "${IFS}", "*", "~",
		"a;id", "a|id", "a&&id", "# no", "!!", "x y", "\t", "é", "日本", "😀", "\u2018\u2019\u201a\u201b", "a\u2019;id;\u2019", "\u00d1", "EOF", "a\nEOF\nb",
		"\xff\xfe", "\x1b[31m", "<<x", "export A=b", "'\n#", "a=b", "a=b,c=d%2C", "\u2028", "x:~root", "=~",
	}
}

// shells returns sh and those of the usual others that are there, as arguments.
func shells() [][]string {
	out := [][]string{{"sh"}}
	for _, args := range [][]string{{"bash"}, {"dash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(args[0]); err == nil {
			out = append(out, args)
		}
	}
	return out
}

// read has a shell run a command that reads the file $1 and print V.
func read(t testing.TB, shell []string, command, file string) string {
	t.Helper()
	args := slices.Concat(shell[1:], []string{"-eu", "-c", command + `; printf '%s.' "$V"`, "sh", file})
	cmd := exec.CommandContext(t.Context(), shell[0], args...)
	cmd.Env = []string{"HOME=/nowhere", "PATH=/bin"}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s", shell, err, &errs)
	}
	return strings.TrimSuffix(string(out), ".")
}

// sourced returns the value of V after a shell has read a script.
func sourced(t testing.TB, shell []string, script []byte) string {
	t.Helper()
	return read(t, shell, `. "$1"`, scriptFile(t, script))
}

func scriptFile(t testing.TB, script []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, script, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func encoded(f Format, value string) ([]byte, []string, error) {
	r := Result{Assignments: []Assignment{{Name: "V", Value: value, Fact: true}}}
	return r.Encode(f, rand.Reader)
}

func FuzzShellsFindEachValueUnchanged(f *testing.F) {
	for _, v := range hostile() {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		text, _, err := encoded(Shell, value)
		if strings.Contains(value, "\x00") {
			if err == nil {
				t.Fatal("a zero byte is accepted")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, shell := range shells() {
			if got := sourced(t, shell, text); got != value {
				t.Errorf("%s: %q became %q by\n%s", shell, value, got, text)
			}
		}
	})
}

// What is evaluated in place of sourced goes through a command substitution.
func TestShellsMayEvaluateTheOutput(t *testing.T) {
	for _, value := range hostile() {
		text, _, err := encoded(Shell, value)
		if err != nil {
			t.Fatal(err)
		}
		for _, shell := range shells() {
			if got := read(t, shell, `eval "$(cat "$1")"`, scriptFile(t, text)); got != value {
				t.Errorf("%s: %q became %q", shell, value, got)
			}
		}
	}
}

func FuzzDotenvIsReadAsItStands(f *testing.F) {
	for _, v := range hostile() {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		text, left, err := encoded(Dotenv, value)
		if err != nil || len(left) > 0 || value == "" {
			if len(text) > 0 {
				t.Errorf("%q is written, although it is left out: %v", text, err)
			}
			return
		}
		if string(text) != "V="+value+"\n" || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%q is written as %q", value, text)
		}
		// Nor is a shell misled, which it is not meant for.
		if got := sourced(t, []string{"sh"}, text); got != value {
			t.Errorf("sh: %q became %q", value, got)
		}
	})
}

func TestDotenvLeavesOutFactsAndRefusesSettings(t *testing.T) {
	r := Result{Assignments: []Assignment{{Name: "A", Value: "v1$(id)", Fact: true}, {Name: "B", Value: "ok"}}}
	text, left, err := r.Encode(Dotenv, nil)
	if err != nil || string(text) != "B=ok\n" || len(left) != 1 || left[0] != "A" {
		t.Errorf("%q, %q, %v", text, left, err)
	}
	r.Assignments[0].Fact = false
	var value *ValueError
	if _, _, err := r.Encode(Dotenv, nil); !errors.As(err, &value) || value.Name != "A" {
		t.Errorf("got %v", err)
	}
}

// powershellValue reads what follows "$env:V = " by the rules of PowerShell: pieces
// that are added up, each a literal in single quotes, in which any of PowerShell's
// single quotes stands for itself when it is doubled, or a character by its number.
func powershellValue(s string) (string, bool) {
	var units []uint16
	for first := true; ; first = false {
		switch {
		case strings.HasPrefix(s, "[char]0x") && !first && len(s) >= 12:
			n, err := strconv.ParseUint(s[8:12], 16, 16)
			if err != nil {
				return "", false
			}
			units, s = append(units, uint16(n)), s[12:]
		case s != "" && s[0] == '\'':
			piece, rest, ok := powershellPiece(s[1:])
			if !ok {
				return "", false
			}
			units, s = append(units, utf16.Encode([]rune(piece))...), rest
		default:
			return "", false
		}
		if s == "" {
			return string(utf16.Decode(units)), true
		}
		if s[0] != '+' {
			return "", false
		}
		s = s[1:]
	}
}

func powershellPiece(s string) (piece, rest string, ok bool) {
	isQuote := func(r rune) bool { return strings.ContainsRune("'\u2018\u2019\u201a\u201b", r) }
	var b strings.Builder
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		if isQuote(r) {
			next, n := utf8.DecodeRuneInString(s)
			if s == "" || !isQuote(next) {
				return b.String(), s, true
			}
			r, s = next, s[n:]
		}
		b.WriteRune(r)
	}
	return "", "", false
}

func FuzzPowerShellFindsEachValueUnchanged(f *testing.F) {
	for _, v := range hostile() {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		text, _, err := encoded(PowerShell, value)
		if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
			if err == nil {
				t.Errorf("%q is accepted", value)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		line, ok := strings.CutSuffix(string(text), "\n")
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is not printable ASCII", line)
		}
		literal, found := strings.CutPrefix(line, "$env:V = ")
		got, read := powershellValue(literal)
		if !ok || !found || !read || got != value {
			t.Errorf("%q became %q by %s", value, got, line)
		}
	})
}

// githubEnv reads the file of GITHUB_ENV as runners do.
func githubEnv(text string) (map[string]string, bool) {
	out := map[string]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] == "" {
			continue
		}
		name, delimiter, ok := strings.Cut(lines[i], "<<")
		if !ok || strings.Contains(name, "=") {
			return nil, false
		}
		var value []string
		for i++; ; i++ {
			if i == len(lines) {
				return nil, false
			}
			if lines[i] == delimiter {
				break
			}
			value = append(value, lines[i])
		}
		out[name] = strings.Join(value, "\n")
	}
	return out, true
}

func FuzzRunnersFindEachValueUnchanged(f *testing.F) {
	for _, v := range hostile() {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		text, _, err := encoded(GitHubEnv, value)
		if !utf8.ValidString(value) || strings.ContainsAny(value, "\x00\r") {
			if err == nil {
				t.Errorf("%q is accepted", value)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, ok := githubEnv(string(text))
		if v, there := got["V"]; !ok || !there || len(got) != 1 || v != value {
			t.Errorf("%q became %q by\n%s", value, got, text)
		}
	})
}

func TestADelimiterThatAValueHoldsIsNotUsed(t *testing.T) {
	r := Result{Assignments: []Assignment{{Name: "V", Value: "a\ncairn-" + strings.Repeat("00", 16) + "\nX=y"}}}
	if _, _, err := r.Encode(GitHubEnv, bytes.NewReader(make([]byte, 16))); err == nil {
		t.Error("it is used")
	}
	if _, _, err := r.Encode(GitHubEnv, bytes.NewReader(nil)); err == nil {
		t.Error("there was no randomness, and a delimiter nevertheless")
	}
}

func TestJSONHoldsEachValueUnchanged(t *testing.T) {
	for _, value := range hostile() {
		text, _, err := encoded(JSON, value)
		if !utf8.ValidString(value) {
			if err == nil {
				t.Errorf("%q is accepted", value)
			}
			continue
		}
		var doc struct{ Variables map[string]string }
		if err != nil || json.Unmarshal(text, &doc) != nil || doc.Variables["V"] != value {
			t.Errorf("%q became %s, %v", value, text, err)
		}
	}
}
