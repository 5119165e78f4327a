package registry

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage"
)

// tagsOf returns the tags in order.
func tagsOf(t *testing.T, s *Storage) []string {
	t.Helper()
	var all []string
	for tag, err := range s.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tag)
	}
	slices.Sort(all)
	return all
}

func TestManyTagsGoAtOnceAndOtherTagsOfTheirManifestStay(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	s := newStorage(t, server.Address()+"/shop/stages", Options{})
	m := pushImage(t, s, 5)
	if err := s.Publish(t.Context(), "kept", m); err != nil {
		t.Fatal(err)
	}
	const many = 40
	for i := range many {
		if err := s.Publish(t.Context(), fmt.Sprint("gone", i), m); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			if err := s.DeleteTag(t.Context(), fmt.Sprint("gone", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := tagsOf(t, s); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("the tags are %v", got)
	}
	if d, err := s.Resolve(t.Context(), "kept"); err != nil || d.Digest != m.Descriptor.Digest {
		t.Errorf("the tag that stays shows %s: %v", d.Digest, err)
	}
}

func TestATagOnTheTombIsNotThereForAnyProcess(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	s := newStorage(t, server.Address()+"/shop/stages", Options{})
	m, err := tomb()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "left", m); err != nil { // by a process that died then
		t.Fatal(err)
	}
	other := newStorage(t, server.Address()+"/shop/stages", Options{})
	_, err = other.Resolve(t.Context(), "left")
	wantClass(t, err, storage.ErrNotFound)
	_, err = other.Manifest(t.Context(), "left")
	wantClass(t, err, storage.ErrNotFound)
	if _, err := other.Resolve(t.Context(), m.Descriptor.Digest.String()); err != nil {
		t.Errorf("by its digest the tomb is there: %v", err)
	}
}

func TestWhyNothingCanBeDeleted(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		class  error
	}{
		{"deletion is switched off", http.StatusMethodNotAllowed, storage.ErrUnsupported},
		{"the permission is missing", http.StatusForbidden, storage.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaulty(t, http.NotFoundHandler())
			f.fault(answer(http.MethodDelete, c.status, nil, `{"errors":[{"code":"X"}]}`))
			s := newStorage(t, f.address("shop/stages"), Options{})
			wantClass(t, s.ProbeDeletion(t.Context()), c.class)
			wantClass(t, s.DeleteTag(t.Context(), "one"), c.class)
		})
	}
}
