package cli

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestOutputCannotSteerTheTerminal(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"text":                      {"gcc -O2 \tmain.c", "gcc -O2 \tmain.c"},
		"colour":                    {"\x1b[1;31mred\x1b[0m", "red"},
		"clear the screen":          {"a\x1b[2J\x1b[Hb", "ab"},
		"window title":              {"\x1b]0;title\ax", "x"},
		"title ended by ST":         {"\x1b]0;title\x1b\\x", "x"},
		"device control":            {"\x1bP1$r\x1b\\x", "x"},
		"an answer is asked for":    {"\x1b[6nx\x1bZ", "x"},
		"an unfinished sequence":    {"x\x1b[12", "x"},
		"an unfinished string":      {"x\x1b]0;title", "x"},
		"a lone escape":             {"x\x1b", "x"},
		"bell, backspace, 8-bit C1": {"\a\b\u009bx", "���x"},
		"direction of text":         {"a\u202eb", "a�b"},
		"no UTF-8":                  {"a\xffb", "a�b"},
		"other alphabets":           {"héllo 世界 🚀", "héllo 世界 🚀"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := printable(tc.in); got != tc.want {
				t.Errorf("%q became %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func TestOfALineWrittenOverTheLastStateCounts(t *testing.T) {
	for in, want := range map[string]string{"1%\r50%\r100%": "100%", "100%\r": "100%", "a\r\r": "a", "": "", "a\nb": "a\nb"} {
		if got := outputLine([]byte(in)); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\x1b]0;x\x07\u202e\xff世")
	f.Add("\x1b\x1b[[[\x1bP")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) {
			t.Errorf("%q became %q", s, got)
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
				t.Errorf("%q became %q, which has %U", s, got, r)
			}
		}
		if c := cut(got, 10); cells(c) > 10 {
			t.Errorf("%q was cut to %q", got, c)
		}
	})
}

func TestCutCountsColumns(t *testing.T) {
	for _, tc := range []struct {
		in   string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"世界世界", 5, "世界…"}, {"世界世界", 4, "世…"}, {"世界", 4, "世界"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"}, {"abc", 1, "…"}, {"abc", 0, ""}, {"", 0, ""},
	} {
		if got := cut(tc.in, tc.most); got != tc.want {
			t.Errorf("cut(%q, %d) is %q, want %q", tc.in, tc.most, got, tc.want)
		}
	}
	if pad("世", 4) != "世  " || pad("abc", 2) != "abc" {
		t.Error("pad does not count columns")
	}
}

func TestDurationsAndSizes(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 1234 * time.Microsecond: "1 ms", 1500 * time.Millisecond: "1.5 s", 61 * time.Second: "1 m 01 s", 90 * time.Minute: "90 m 00 s",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v is %q", d, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345_678: "12.3 MB", 1 << 62: "4611.7 PB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
	if plural(1, "stage") != "1 stage" || plural(2, "stage") != "2 stages" {
		t.Error("plural")
	}
	if !strings.HasPrefix(indented("a\nb", "  "), "a\n  b") {
		t.Error("indented")
	}
}
