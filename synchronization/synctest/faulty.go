package synctest

import (
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/synchronization"
)

// Faulty decorates a backend with the faults of [locktest.Faulty].
type Faulty struct {
	*locktest.Faulty
	backend synchronization.Backend
}

// NewFaulty returns one process's access to the backend, with faults that are the
// same for the same seed.
func NewFaulty(b synchronization.Backend, seed uint64, f locktest.Faults) *Faulty {
	return &Faulty{Faulty: locktest.New(b, seed, f), backend: b}
}

// Address names the backend.
func (f *Faulty) Address() string { return f.backend.Address() }

// Close closes the backend.
func (f *Faulty) Close() error { return f.backend.Close() }
