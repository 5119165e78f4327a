package synchronization_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/synchronization"
)

const (
	sha  = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	sha2 = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	who  = `"session":"0a1b","nonce":"2c3d"`
)

// written are the forms in which entries are written; other versions read them,
// so they do not change within a format.
var written = map[string]string{
	"building":         `{"state":"building",` + who + `}`,
	"building anew":    `{"state":"building",` + who + `,"avoid":"` + sha + `"}`,
	"publishing":       `{"state":"publishing",` + who + `,"manifest":"` + sha + `"}`,
	"published":        `{"state":"published",` + who + `,"manifest":"` + sha + `","at":"2024-05-06T07:08:09Z"}`,
	"doomed":           `{"state":"doomed",` + who + `}`,
	"deleting":         `{"state":"deleting",` + who + `,"manifest":"` + sha2 + `"}`,
	"deleted":          `{"state":"deleted",` + who + `,"manifest":"` + sha2 + `","at":"2024-05-06T07:08:09Z"}`,
	"the epoch's time": `{"state":"deleted",` + who + `,"manifest":"` + sha2 + `","at":"1970-01-01T00:00:00Z"}`,
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for name, text := range written {
		e, err := synchronization.DecodeEntry("stage.x", text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Session != "0a1b" || e.Nonce != "2c3d" || !strings.HasPrefix(name, string(e.State)) && name != "the epoch's time" {
			t.Errorf("%s: read %+v", name, e)
		}
	}
}

func TestNonsenseIsRefusedAndNamed(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                       ``,
		"an empty object":               `{}`,
		"no object":                     `"building"`,
		"an unknown state":              `{"state":"finished",` + who + `}`,
		"a state in capitals":           `{"state":"Building",` + who + `}`,
		"an unknown field":              `{"state":"building",` + who + `,"more":1}`,
		"a field in capitals":           `{"State":"building",` + who + `}`,
		"a field twice":                 `{"state":"building","state":"building",` + who + `}`,
		"other spacing":                 `{"state": "building",` + who + `}`,
		"something after it":            `{"state":"building",` + who + `} `,
		"no session":                    `{"state":"building","nonce":"2c3d"}`,
		"no nonce":                      `{"state":"building","session":"0a1b"}`,
		"a session that is a path":      `{"state":"building","session":"../x","nonce":"2c3d"}`,
		"a session without end":         `{"state":"building","session":"` + strings.Repeat("a", 65) + `","nonce":"2c3d"}`,
		"building with a manifest":      `{"state":"building",` + who + `,"manifest":"` + sha + `"}`,
		"publishing without a manifest": `{"state":"publishing",` + who + `}`,
		"publishing with one to avoid":  `{"state":"publishing",` + who + `,"manifest":"` + sha + `","avoid":"` + sha2 + `"}`,
		"a manifest that is none":       `{"state":"publishing",` + who + `,"manifest":"sha256:12"}`,
		"a manifest to avoid, none":     `{"state":"building",` + who + `,"avoid":"latest"}`,
		"published without a time":      `{"state":"published",` + who + `,"manifest":"` + sha + `"}`,
		"published at no time":          `{"state":"published",` + who + `,"manifest":"` + sha + `","at":"noon"}`,
		"building at a time":            `{"state":"building",` + who + `,"at":"2024-05-06T07:08:09Z"}`,
	} {
		_, err := synchronization.DecodeEntry("stage.abc", text)
		if !errors.Is(err, synchronization.ErrBadEntry) || !strings.Contains(err.Error(), `"stage.abc"`) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, text := range written {
		f.Add(text)
	}
	f.Add(`{"state":"building","session":"0a1b","nonce":"2c3d","avoid":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := synchronization.DecodeEntry("stage.x", text)
		if err != nil {
			if !errors.Is(err, synchronization.ErrBadEntry) || e != (synchronization.Entry{}) {
				t.Fatalf("error %v with entry %+v", err, e)
			}
			return
		}
		again, err := json.Marshal(e)
		if err != nil || string(again) != text {
			t.Fatalf("%q was accepted, but is written %q (%v)", text, again, err)
		}
	})
}
