package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

func leases(verb, name string) call {
	return call{verb: verb, group: groupCoordination, resource: "leases", name: name}
}

func leaseName(group, session string) string { return group + "." + session }

// microTime is how a Lease writes times.
const microTime = "2006-01-02T15:04:05.000000Z07:00"

// Renew implements [lock.Sessions].
func (b *Backend) Renew(ctx context.Context, group string, r lock.Record) error {
	if r.Seq == 1 {
		err := b.makeLease(ctx, group, r)
		if !errors.Is(err, errExists) {
			return err
		}
	}
	body, err := encode(b.lease(group, r))
	if err != nil {
		return err
	}
	c := leases("patch", leaseName(group, r.Session))
	c.typ, c.body = typeMergePatch, body
	err = b.do(ctx, c, nil)
	if errors.Is(err, errNotFound) {
		return fmt.Errorf("%w: %w", lock.ErrNoSession, err)
	}
	return err
}

func (b *Backend) makeLease(ctx context.Context, group string, r lock.Record) error {
	o := b.lease(group, r)
	o.Kind, o.APIVersion = "Lease", "coordination.k8s.io/v1"
	o.Spec.AcquireTime = o.Spec.RenewTime
	body, err := encode(o)
	if err != nil {
		return err
	}
	c := leases("create", leaseName(group, r.Session))
	c.typ, c.body = typeJSON, body
	return b.create(ctx, c, nil)
}

// lease returns what a renewal writes. That the TTL is rounded up to seconds lets
// others wait a little longer, which is the harmless mistake. The time is for
// people alone.
func (b *Backend) lease(group string, r lock.Record) object {
	return object{
		Metadata: metadata{
			Name:        leaseName(group, r.Session),
			Labels:      map[string]string{labelManager: manager, labelGroup: labelValue(group)},
			Annotations: map[string]string{noteSeq: strconv.FormatUint(r.Seq, 10)},
		},
		Spec: &leaseSpec{
			HolderIdentity:       r.Holder,
			LeaseDurationSeconds: int64((r.TTL + time.Second - 1) / time.Second),
			RenewTime:            b.now().UTC().Format(microTime),
		},
	}
}

// Records implements [lock.Sessions].
func (b *Backend) Records(ctx context.Context, group string) ([]lock.Record, error) {
	all, err := b.listLeases(ctx, group)
	if err != nil {
		return nil, err
	}
	var records []lock.Record
	for _, o := range all.Items {
		if r, ok := decodeLease(group, o); ok {
			records = append(records, r)
		}
	}
	return records, nil
}

// Times are a session's, all by the API server's clock; zero is unknown.
type Times struct {
	// Began is when its Lease was made.
	Began time.Time
	// Renewed is when its Lease was written last.
	Renewed time.Time
}

// Times returns what the API server knows of when the sessions of a group were
// there, by their ids. What the Leases say themselves is of their owners' clocks.
func (b *Backend) Times(ctx context.Context, group string) (map[string]Times, error) {
	all, err := b.listLeases(ctx, group)
	if err != nil {
		return nil, err
	}
	times := map[string]Times{}
	for _, o := range all.Items {
		if r, ok := decodeLease(group, o); ok {
			times[r.Session] = o.Metadata.times()
		}
	}
	return times, nil
}

// times reads when the server made an object, and when it noted the last write.
// What cannot be read stays unknown.
func (m metadata) times() (t Times) {
	t.Began, _ = time.Parse(time.RFC3339, m.CreationTimestamp)
	for _, raw := range m.ManagedFields {
		var written struct {
			Time time.Time `json:"time"`
		}
		if json.Unmarshal(raw, &written) == nil && written.Time.After(t.Renewed) {
			t.Renewed = written.Time
		}
	}
	return t
}

func (b *Backend) listLeases(ctx context.Context, group string) (list, error) {
	c := leases("list", "")
	c.query = url.Values{"labelSelector": {labelGroup + "=" + labelValue(group)}}
	var all list
	err := b.do(ctx, c, &all)
	return all, err
}

// decodeLease returns the record that a Lease is, false for one of another group.
// A Lease that somebody has damaged is a session that does not move any more.
func decodeLease(group string, o object) (lock.Record, bool) {
	session, ok := strings.CutPrefix(o.Metadata.Name, group+".")
	if !ok || session == "" || strings.Contains(session, ".") {
		return lock.Record{}, false
	}
	r := lock.Record{Session: session, TTL: lock.DefaultTTL}
	r.Seq, _ = strconv.ParseUint(o.Metadata.Annotations[noteSeq], 10, 64)
	if o.Spec != nil {
		r.Holder = o.Spec.HolderIdentity
		if s := o.Spec.LeaseDurationSeconds; s > 0 {
			r.TTL = time.Duration(min(s, maxTTL)) * time.Second
		}
	}
	return r, true
}

// maxTTL bounds the TTL, in seconds, that a Lease can make others wait for.
const maxTTL = 24 * 60 * 60

// Remove implements [lock.Sessions].
func (b *Backend) Remove(ctx context.Context, group, session string, seq uint64) error {
	c := leases("delete", leaseName(group, session))
	if seq != 0 {
		var err error
		if c.body, err = b.expect(ctx, group, session, seq); err != nil {
			return gone(err)
		}
		c.typ = typeJSON
	}
	err := b.do(ctx, c, nil)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == http.StatusConflict {
		return fmt.Errorf("%w: %s", lock.ErrConflict, refused.Message)
	}
	return gone(err)
}

// deleteOptions and preconditions: the object as it was seen, and no later one.
type deleteOptions struct {
	Kind          string        `json:"kind"`
	APIVersion    string        `json:"apiVersion"`
	Preconditions preconditions `json:"preconditions"`
}

type preconditions struct {
	UID             string `json:"uid"`
	ResourceVersion string `json:"resourceVersion"`
}

// expect returns the body of a deletion that only succeeds while the session's
// Seq is seq.
func (b *Backend) expect(ctx context.Context, group, session string, seq uint64) ([]byte, error) {
	var o object
	if err := b.do(ctx, leases("get", leaseName(group, session)), &o); err != nil {
		return nil, err
	}
	if r, _ := decodeLease(group, o); r.Seq != seq {
		return nil, fmt.Errorf("%w: it was renewed", lock.ErrConflict)
	}
	return encode(deleteOptions{Kind: "DeleteOptions", APIVersion: "v1", Preconditions: preconditions{
		UID: o.Metadata.UID, ResourceVersion: o.Metadata.ResourceVersion,
	}})
}

// gone takes it for a success that there is nothing to remove.
func gone(err error) error {
	if errors.Is(err, errNotFound) {
		return nil
	}
	return err
}
