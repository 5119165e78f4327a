package wire

import (
	"errors"
	"strings"

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
	if err := checkLogin("--synchronization", s.Synchronization); err != nil {
		return err
	}
	for _, address := range s.Engines {
		if err := checkLogin("--engine", address); err != nil {
			return err
		}
	}
	if err := checkSynchronization(s.Synchronization); err != nil {
		return err
	}
	if _, err := s.engines(); err != nil {
		return err
	}
	return s.checkStorages()
}

// checkLogin refuses an address with a login before it could be repeated in a
// message. The path of a socket may hold any character.
func checkLogin(flag, address string) error {
	scheme, rest, _ := strings.Cut(address, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if strings.HasSuffix(scheme, "unix") || !strings.Contains(authority, "@") {
		return nil
	}
	return &SettingError{flag, errors.New("the address holds a login, or something else before an @"), "leave out what stands before the @; what was written there may be in logs and histories of commands by now"}
}

func (s Settings) checkStorages() error {
	client, err := registry.NewClient(registry.Options{CAFile: s.RegistryCA})
	if err != nil {
		return &SettingError{"--registry-ca", err, "name a file that holds certificates in PEM"}
	}
	defer client.Close()
	for _, f := range []struct{ flag, address string }{{"--stages-storage", s.Storage}, {"--secondary-storage", s.Secondary}, {"--cache-storage", s.CacheStorage}} {
		if f.address == "" && f.flag != "--stages-storage" || f.address == Local && f.flag != "--cache-storage" {
			continue
		}
		if _, err := client.Open(f.address); err != nil {
			return &SettingError{f.flag, err, "an address is HOST[:PORT]/PATH, for instance registry.example.com/shop/stages, or :local"}
		}
	}
	if s.CacheStorage != "" && (s.CacheStorage == s.Storage || s.CacheStorage == s.Secondary) {
		return &SettingError{"--cache-storage", errors.New(s.CacheStorage + " is a stages storage itself"), "name a repository that holds nothing else, or leave it out"}
	}
	if s.Secondary == s.Storage {
		return &SettingError{"--secondary-storage", errors.New(s.Secondary + " is the stages storage itself"), "name another storage, or leave it out"}
	}
	return nil
}
