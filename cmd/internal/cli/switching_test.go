package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of the guide are commands, with flags that they have; the scripts
// "switch" run them.
func TestTheCommandsOfTheGuideToSwitching(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(docs, "switching.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^    cairn (.*)$`).FindAllStringSubmatch(string(guide), -1)
	if len(lines) < 3 {
		t.Fatalf("the guide has %d commands", len(lines))
	}
	for _, line := range lines {
		cmd, rest, err := commands()[0].Find(strings.Fields(line[1]))
		if err != nil || !cmd.Runnable() {
			t.Errorf("cairn %s: %v", line[1], err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil || cmd.Flags().NArg() > 0 {
			t.Errorf("cairn %s: %v, arguments %q", line[1], err, cmd.Flags().Args())
		}
	}
	for _, flag := range regexp.MustCompile("`(--[a-z-]+)`").FindAllStringSubmatch(string(guide), -1) {
		if !commandsHave(flag[1]) {
			t.Errorf("the guide tells of %s, which no command has", flag[1])
		}
	}
}

// commandsHave reports whether any command has a flag.
func commandsHave(flag string) bool {
	for _, c := range commands() {
		if c.Flag(strings.TrimPrefix(flag, "--")) != nil {
			return true
		}
	}
	return false
}
