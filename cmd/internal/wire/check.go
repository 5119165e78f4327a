package wire

import (
	"errors"

	"github.com/cairnbuild/cairn/storage/registry"
)

// SettingError says that a flag, or its variable, has a value that cannot be used.
type SettingError struct {
	// Flag is the flag's name with its dashes.
	Flag string
	Err  error
	// What to do.
	hint string
}

// Error implements error.
func (e *SettingError) Error() string { return e.Flag + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SettingError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *SettingError) Hint() string { return e.hint }

// Check refuses settings that contradict each other or that this version cannot
// serve, with a [*SettingError]. It reads no file but that of --registry-ca, and
// opens no connection.
func (s Settings) Check() error {
	if err := checkSynchronization(s.Synchronization); err != nil {
		return err
	}
	if _, err := s.engines(); err != nil {
		return err
	}
	return s.checkStorages()
}

func (s Settings) checkStorages() error {
	client, err := registry.NewClient(registry.Options{CAFile: s.RegistryCA})
	if err != nil {
		return &SettingError{"--registry-ca", err, "name a file that holds certificates in PEM"}
	}
	defer client.Close()
	for _, f := range []struct{ flag, address string }{{"--stages-storage", s.Storage}, {"--secondary-storage", s.Secondary}} {
		if f.address == Local || f.address == "" && f.flag == "--secondary-storage" {
			continue
		}
		if _, err := client.Open(f.address); err != nil {
			return &SettingError{f.flag, err, "an address is HOST[:PORT]/PATH, for instance registry.example.com/shop/stages, or :local"}
		}
	}
	if s.Secondary == s.Storage {
		return &SettingError{"--secondary-storage", errors.New(s.Secondary + " is the stages storage itself"), "name another storage, or leave it out"}
	}
	return nil
}
