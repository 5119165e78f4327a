package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/cairnbuild/cairn/lock"
)

// Labels and annotations of the ledger's objects.
const (
	labelManager = "app.kubernetes.io/managed-by"
	manager      = "cairn"
	labelShard   = "cairn.build/shard"  // of ConfigMaps: the shard
	labelGroup   = "cairn.build/ledger" // of Leases: the group of sessions
	noteSeq      = "cairn.build/renewals"
	maxLabel     = 63
)

// keyAbout is a key that every ConfigMap keeps, for a patch can add to data only
// where there is some. It is no cell.
const (
	keyAbout = "_about"
	about    = "Coordination of cairn builds. Do not edit; \"cairn locks\" shows and breaks what is in here."
)

// object is what is written and read of the objects in use; a field that a kind
// does not have stays empty.
type object struct {
	Kind       string            `json:"kind,omitempty"`
	APIVersion string            `json:"apiVersion,omitempty"`
	Metadata   metadata          `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`
	Spec       *leaseSpec        `json:"spec,omitempty"`
}

type metadata struct {
	Name              string            `json:"name,omitempty"`
	GenerateName      string            `json:"generateName,omitempty"`
	Namespace         string            `json:"namespace,omitempty"`
	UID               string            `json:"uid,omitempty"`
	ResourceVersion   string            `json:"resourceVersion,omitempty"`
	CreationTimestamp string            `json:"creationTimestamp,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	ManagedFields     []json.RawMessage `json:"managedFields,omitempty"`
}

type leaseSpec struct {
	HolderIdentity       string `json:"holderIdentity,omitempty"`
	LeaseDurationSeconds int64  `json:"leaseDurationSeconds,omitempty"`
	AcquireTime          string `json:"acquireTime,omitempty"`
	RenewTime            string `json:"renewTime,omitempty"`
}

type list struct {
	Items []object `json:"items"`
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b, nil
}

// labelValue returns name where it fits into a label, else a short name that
// stands for it. Who selects by it compares full names afterwards.
func labelValue(name string) string {
	if len(name) <= maxLabel {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(name[:maxLabel-17], "-.") + "-" + hex.EncodeToString(sum[:8])
}

// snapshot returns a ConfigMap as a shard, and notes what was seen of it.
func (b *Backend) snapshot(o object) (lock.Snapshot, error) {
	revision, err := strconv.ParseUint(o.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return lock.Snapshot{}, fmt.Errorf("configmap %s: its revision %q is no number: %w", o.Metadata.Name, o.Metadata.ResourceVersion, err)
	}
	s := sight{bare: o.Data == nil, managed: len(o.Metadata.ManagedFields) > 0}
	for k, v := range o.Data {
		s.size += len(k) + len(v)
	}
	b.mu.Lock()
	b.seen[o.Metadata.Name] = s
	b.mu.Unlock()
	delete(o.Data, keyAbout)
	if o.Data == nil {
		o.Data = map[string]string{}
	}
	return lock.Snapshot{UID: o.Metadata.UID, Revision: revision, Data: o.Data}, nil
}
