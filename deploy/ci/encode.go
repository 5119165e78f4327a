package ci

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Format is how assignments are written.
type Format string

// The formats. In each of them a value is data, whatever it holds.
const (
	// Shell is for POSIX shells: literals in single quotes.
	Shell Format = "sh"
	// PowerShell is ASCII: other characters are written by their numbers, because
	// which encoding a script is read in depends on the version.
	PowerShell Format = "powershell"
	// Dotenv is one NAME=VALUE a line without quotes, as artifacts of GitLab and
	// "docker run --env-file" have it.
	Dotenv Format = "dotenv"
	// JSON is one document.
	JSON Format = "json"
	// GitHubEnv is for the file of GITHUB_ENV, to be appended to it.
	GitHubEnv Format = "github-env"
)

// Formats returns all of them.
func Formats() []Format { return []Format{Shell, PowerShell, Dotenv, JSON, GitHubEnv} }

// Encode writes the assignments in a format. random is for delimiters, which
// nobody can foresee. What a format cannot hold gives a [*ValueError]; of a
// fact, which no build depends on, Dotenv leaves it out, and left names it.
func (r Result) Encode(f Format, random io.Reader) (text []byte, left []string, err error) {
	if f == JSON {
		text, err = r.json()
		return text, nil, err
	}
	var b bytes.Buffer
	for _, a := range r.Assignments {
		line, err := a.encode(f, random)
		if err != nil {
			return nil, nil, err
		}
		if line == "" && a.Value != "" {
			left = append(left, a.Name)
		}
		b.WriteString(line)
	}
	return b.Bytes(), left, nil
}

func (a Assignment) encode(f Format, random io.Reader) (string, error) {
	if strings.ContainsRune(a.Value, 0) {
		return "", &ValueError{a.Name, "it would hold a zero byte", "no variable can"}
	}
	if f != Shell && !utf8.ValidString(a.Value) {
		return "", &ValueError{a.Name, "it is no text in UTF-8", "only --as sh can hold it"}
	}
	switch f {
	case Shell:
		return "export " + a.Name + "='" + strings.ReplaceAll(a.Value, "'", `'\''`) + "'\n", nil
	case PowerShell:
		return "$env:" + a.Name + " = " + powershellLiteral(a.Value) + "\n", nil
	case Dotenv:
		return a.dotenv()
	case GitHubEnv:
		return a.heredoc(random)
	default:
		return "", fmt.Errorf("format %q: %w", string(f), errFormat)
	}
}

var errFormat = errors.New("there is no such format")

// powershellLiteral writes a string as printable ASCII. PowerShell takes four
// characters beside the apostrophe for single quotes, and Windows PowerShell reads
// UTF-8 in the code page of the system, in which others become such.
func powershellLiteral(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, r := range s {
		switch {
		case r == '\'':
			b.WriteString("''")
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		default:
			b.WriteByte('\'')
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, "+[char]0x%04X", unit)
			}
			b.WriteString("+'")
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// dotenv writes a line that every reader takes as it stands, a shell too: there
// is no way to quote that all of them know.
func (a Assignment) dotenv() (string, error) {
	switch {
	case a.Value == "":
		return "", nil
	case !strings.ContainsFunc(a.Value, notPlain) && a.Value[0] != '#':
		return a.Name + "=" + a.Value + "\n", nil
	case a.Fact:
		return "", nil
	default:
		return "", &ValueError{a.Name, "its value has characters that not all readers of dotenv files take as they are", "use --as sh or --as json"}
	}
}

func notPlain(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_./:@%+,=^#?-", r)
}

// heredoc writes the form of GITHUB_ENV that may have several lines.
func (a Assignment) heredoc(random io.Reader) (string, error) {
	if strings.ContainsRune(a.Value, '\r') {
		return "", &ValueError{a.Name, "it holds a carriage return, which not all runners keep", "use --as sh or --as json"}
	}
	secret := make([]byte, 16)
	if _, err := io.ReadFull(random, secret); err != nil {
		return "", fmt.Errorf("make a delimiter: %w", err)
	}
	delimiter := "cairn-" + hex.EncodeToString(secret)
	if strings.Contains(a.Value, delimiter) {
		return "", &ValueError{a.Name, "it holds the delimiter that was drawn for it", "run the command again"}
	}
	return a.Name + "<<" + delimiter + "\n" + a.Value + "\n" + delimiter + "\n", nil
}

func (r Result) json() ([]byte, error) {
	doc := struct {
		System    System            `json:"system"`
		Scope     Scope             `json:"scope"`
		Variables map[string]string `json:"variables"`
		Notes     []string          `json:"notes"`
	}{r.Run.System, r.Scope, map[string]string{}, r.Notes}
	if doc.Notes == nil {
		doc.Notes = []string{}
	}
	for _, a := range r.Assignments {
		if !utf8.ValidString(a.Value) {
			return nil, &ValueError{a.Name, "it is no text in UTF-8", "only --as sh can hold it"}
		}
		doc.Variables[a.Name] = a.Value
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("write the variables: %w", err)
	}
	return b.Bytes(), nil
}
