package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// testObjects are the tests of what becomes of the objects on a real server.
func (y *yard) testObjects(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *yard){
		"a namespace that is missing is made":                     makesNamespace,
		"a namespace that may not be made is an error with a way": refusesNamespace,
		"an object without data gets some":                        healsBare,
		"labels are not needed":                                   readsWithoutLabels,
		"a shard takes what fits and no more":                     knowsLimits,
		"a wrong key is refused for good":                         refusesKeys,
		"a watch outlives its connection":                         resumesWatch,
		"a lease that people see tells who holds what":            showsLease,
		"an event tells of what a person did":                     warns,
		"long names are told apart":                               tellsLongNames,
		"the clock is the server's":                               readsClock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, y)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makesNamespace(t *testing.T, y *yard) {
	b := y.open(t, y.Config(), y.fresh())
	found, err := b.Read(t.Context(), "s", "r")
	must(t, err)
	if len(found) != 0 {
		t.Fatalf("found %v", found)
	}
	s, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1")})
	must(t, err)
	if s.UID == "" || s.Data["a"] != "1" || len(s.Data) != 1 {
		t.Fatalf("made %+v", s)
	}
	other := y.open(t, y.Config(), y.fresh())
	must(t, other.Renew(t.Context(), "g", lock.Record{Session: "ab", Seq: 1, TTL: time.Minute}))
}

func refusesNamespace(t *testing.T, y *yard) {
	space := y.fresh()
	b := y.open(t, y.runner, space)
	_, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1")})
	var denied *DeniedError
	if !errors.As(err, &denied) || !strings.Contains(err.Error(), space) || !strings.Contains(denied.Hint(), space) {
		t.Fatalf("got error %v", err)
	}
}

func healsBare(t *testing.T, y *yard) {
	b := y.open(t, y.runner, y.space(t, Rules()))
	first, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1")})
	must(t, err)
	c := configMaps("patch", "s")
	c.typ, c.body = typeMergePatch, []byte(`{"data":null}`)
	must(t, b.do(t.Context(), c, nil))
	client := lock.NewClient(t.Context(), b, lock.Options{Now: time.Now, Rand: strings.NewReader(strings.Repeat("x", 4096))})
	defer client.Close()
	s, err := client.Apply(t.Context(), "s", lock.Add("a", "2"))
	must(t, err)
	if s.UID != first.UID || s.Data["a"] != "2" || len(s.Data) != 1 {
		t.Fatalf("got %+v", s)
	}
}

func readsWithoutLabels(t *testing.T, y *yard) {
	b := y.open(t, y.runner, y.space(t, Rules()))
	for _, shard := range []string{"s", "r"} {
		_, err := b.Swap(t.Context(), shard, []lock.Change{lock.Add("a", shard)})
		must(t, err)
	}
	c := configMaps("patch", "s")
	c.typ, c.body = typeMergePatch, []byte(`{"metadata":{"labels":null}}`)
	must(t, b.do(t.Context(), c, nil))
	found, err := b.Read(t.Context(), "s", "r", "none")
	must(t, err)
	if len(found) != 2 || found["s"].Data["a"] != "s" || found["r"].Data["a"] != "r" {
		t.Fatalf("found %v", found)
	}
}

func knowsLimits(t *testing.T, y *yard) {
	space := y.space(t, Rules())
	b, blind := y.open(t, y.runner, space), y.open(t, y.runner, space)
	half := strings.Repeat("x", maxData/2)
	_, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", half)})
	must(t, err)
	var full *FullError
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Add("b", half)})
	if !errors.As(err, &full) || full.Shard != "s" || full.Size <= maxData || !errors.Is(err, lock.ErrFull) {
		t.Fatalf("got error %v", err)
	}
	_, err = blind.Swap(t.Context(), "s", []lock.Change{lock.Add("b", half)})
	if !errors.As(err, &full) || full.Size != 0 {
		t.Fatalf("who did not know the size got error %v", err)
	}
	_, err = b.Swap(t.Context(), "r", []lock.Change{lock.Add("a", strings.Repeat("x", 4*maxData))})
	if !errors.As(err, &full) {
		t.Fatalf("a huge value: got error %v", err)
	}
	// What was known of the shard is old: it is read before anything is refused.
	must(t, dropCell(blind, t, "s", "a", half))
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Add("b", half)})
	must(t, err)
	// What is there may grow where nothing new has room.
	large := strings.Repeat("x", maxData-reserve/2)
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Replace("b", half, large)})
	must(t, err)
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Add("c", "1")})
	if !errors.As(err, &full) || full.Limit != maxData-reserve {
		t.Fatalf("a new cell in the reserve: got error %v", err)
	}
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Replace("b", large, large+"x")})
	must(t, err)
}

func dropCell(b *Backend, t *testing.T, shard, key, value string) error {
	_, err := b.Swap(t.Context(), shard, []lock.Change{lock.Remove(key, value)})
	return err
}

func refusesKeys(t *testing.T, y *yard) {
	b := y.open(t, y.runner, y.space(t, Rules()))
	_, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1")})
	must(t, err)
	for _, key := range []string{"not/a~key", "ünï", keyAbout} {
		_, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add(key, "1")})
		if err == nil || errors.Is(err, lock.ErrConflict) || errors.Is(err, lock.ErrAmbiguous) || errors.Is(err, lock.ErrUnavailable) {
			t.Errorf("%s: got error %v, want a permanent one", key, err)
		}
	}
}

// resumesWatch has the server end its streams every second or two.
func resumesWatch(t *testing.T, y *yard) {
	b := y.open(t, y.runner, y.space(t, Rules()))
	_, err := b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "0")})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := b.stream(ctx, "s", "")
	must(t, err)
	w := &watch{shard: "s", wake: make(chan struct{}, 1)}
	go func() {
		<-w.wake // the present state
		stream.Body.Close()
	}()
	w.follow(stream)
	for i := range 3 { // what happens between two streams is told by the next one
		_, err = b.Swap(ctx, "s", []lock.Change{lock.Replace("a", fmt.Sprint(i), fmt.Sprint(i+1))})
		must(t, err)
		stream = b.resume(ctx, w)
		if stream == nil {
			t.Fatal("the watch does not go on")
		}
		go func() {
			<-w.wake
			stream.Body.Close()
		}()
		w.follow(stream)
	}
	if ctx.Err() != nil {
		t.Fatal("not woken")
	}
}

func showsLease(t *testing.T, y *yard) {
	space := y.space(t, Rules())
	b := y.open(t, y.runner, space)
	must(t, b.Renew(t.Context(), "cairn-shop", lock.Record{Session: "ab12", Holder: "ci-7, process 1", Seq: 1, TTL: 1500 * time.Millisecond}))
	out, err := y.Kubectl(t.Context(), "get", "leases", "-n", space).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "cairn-shop.ab12") || !strings.Contains(string(out), "ci-7, process 1") {
		t.Fatalf("error %v, output %s", err, out)
	}
	records, err := b.Records(t.Context(), "cairn-shop")
	must(t, err)
	if len(records) != 1 || records[0].TTL != 2*time.Second {
		t.Errorf("records %+v, want a TTL that is rounded up", records)
	}
}

func warns(t *testing.T, y *yard) {
	space := y.space(t, Rules())
	b := y.open(t, y.runner, space)
	_, err := b.Swap(t.Context(), "cairn-shop.3", []lock.Change{lock.Add("a", "1")})
	must(t, err)
	must(t, b.Warn(t.Context(), "cairn-shop.3", "LockBroken", "because of "+strings.Repeat("x", 2000)))
	out, err := y.Kubectl(t.Context(), "get", "events", "-n", space).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "LockBroken") || !strings.Contains(string(out), "configmap/cairn-shop.3") {
		t.Fatalf("error %v, output %s", err, out)
	}
}

func tellsLongNames(t *testing.T, y *yard) {
	b := y.open(t, y.runner, y.space(t, Rules()))
	long := "cairn-" + strings.Repeat("x", 100)
	for _, name := range []string{long + ".1", long + ".2"} {
		_, err := b.Swap(t.Context(), name, []lock.Change{lock.Add("a", name)})
		must(t, err)
		must(t, b.Renew(t.Context(), name, lock.Record{Session: "ab", Seq: 1, TTL: time.Minute}))
	}
	found, err := b.Read(t.Context(), long+".1", long+".2")
	must(t, err)
	if len(found) != 2 || found[long+".2"].Data["a"] != long+".2" {
		t.Fatalf("found %v", found)
	}
	records, err := b.Records(t.Context(), long+".1")
	must(t, err)
	if len(records) != 1 {
		t.Fatalf("records %+v", records)
	}
}

func readsClock(t *testing.T, y *yard) {
	nobody, err := y.User("nobody")
	must(t, err)
	b := y.open(t, nobody, "cairn-test")
	now, err := b.Now(t.Context())
	must(t, err)
	if off := time.Since(now).Abs(); off > patience {
		t.Errorf("the server of this machine is off by %s", off)
	}
}
