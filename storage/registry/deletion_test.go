package registry

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
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

// docker-registry takes the file of a tag that is just being written, by anybody, for
// an invalid digest when it looks which tags the tomb has.
func TestATombThatCannotBeDeletedRightNowDeletesItsTags(t *testing.T) {
	m, err := tomb()
	if err != nil {
		t.Fatal(err)
	}
	for _, refusals := range []int{1, emptyTries - 1, emptyTries} {
		t.Run(fmt.Sprint(refusals), func(t *testing.T) {
			server := testbed.NewRegistry(t, testbed.RegistryOptions{})
			f := newFaulty(t, httputil.NewSingleHostReverseProxy(parseURL(t, server.URL())))
			f.fault(times(refusals, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodDelete || !strings.HasSuffix(r.URL.Path, m.Descriptor.Digest.String()) {
					return false
				}
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID"}]}`)
				return true
			}))
			s := newStorage(t, f.address("shop/stages"), Options{})
			pushed := pushImage(t, s, 6)
			for _, tag := range []string{"one", "two"} {
				if err := s.Publish(t.Context(), tag, pushed); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.DeleteTag(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
			_, err := s.Resolve(t.Context(), "one")
			wantClass(t, err, storage.ErrNotFound)
			if err := s.DeleteTag(t.Context(), "two"); err != nil {
				t.Fatal(err)
			}
			if got := tagsOf(t, s); len(got) != 0 {
				t.Errorf("the tags are %v", got)
			}
		})
	}
}
