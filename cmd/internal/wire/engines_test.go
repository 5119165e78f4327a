package wire

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnEngineThatCannotBeMeantIsRefusedBeforeItIsNeeded(t *testing.T) {
	there := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, given, want string // want is empty where it is accepted
	}{
		{"a platform", "linux/arm64=tcp://127.0.0.1:1234", ""},
		{"a platform with a variant", "linux/arm/v7=tcp://127.0.0.1:1234", ""},
		{"files", "tcp://h:1234?cert=" + there + "&key=" + there + "&ca=" + there, ""},
		{"an architecture that there is not", "linux/nonsense=tcp://127.0.0.1:1234", "linux/nonsense is none of the platforms"},
		{"another system", "windows/amd64=tcp://127.0.0.1:1234", "windows/amd64 is none of the platforms"},
		{"a port that there is not", "tcp://127.0.0.1:99999", "99999 is no port"},
		{"a certificate that is not there", "tcp://h:1234?cert=" + there + "-no&key=" + there, "pem-no: no such file"},
		{"a key that is not there", "tcp://h:1234?cert=" + there + "&key=" + there + "-no", "pem-no: no such file"},
		{"an authority that is not there", "tcp://h:1234?ca=" + there + "-no&cert=" + there + "&key=" + there, "pem-no: no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Settings{Engines: []string{tt.given}}.engines()
			var wrong *SettingError
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("the error is %v, want %q", err, tt.want)
			}
		})
	}
}
