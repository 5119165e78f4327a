package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/synchronization"
	ledgertest "github.com/cairnbuild/cairn/synchronization/synctest"
)

// patience bounds what tests wait for.
const patience = time.Minute

// yard is the API server of all tests that need a real one.
type yard struct {
	*testbed.Cluster
	runner *rest.Config // a user who may do what the manifest allows, nothing more
	spaces *atomic.Int64
	run    string // tells the namespaces of this run from those of others
}

func TestRealServer(t *testing.T) {
	y := newYard(t)
	t.Run("store", func(t *testing.T) {
		locktest.Run(t, func(t *testing.T) locktest.Harness {
			space := y.space(t, Rules())
			return locktest.Harness{
				Open: func() lock.Store { return y.open(t, y.runner, space) },
				Lose: y.lose(t, space), Now: time.Now, Real: true,
			}
		})
	})
	t.Run("ledger", func(t *testing.T) {
		ledgertest.Run(t, func(t *testing.T) ledgertest.Harness {
			space := y.space(t, Rules())
			return ledgertest.Harness{
				Open: func() synchronization.Backend { return y.open(t, y.runner, space) },
				Lose: y.lose(t, space), Now: time.Now, Real: true,
			}
		})
	})
	t.Run("faults", y.testFaults)
	t.Run("objects", y.testObjects)
	t.Run("times", y.testTimes)
	t.Run("rights", y.testRights)
	t.Run("restart", y.testRestart)
}

func newYard(t testbed.T) *yard {
	t.Helper()
	y := &yard{Cluster: testbed.NewCluster(t, testbed.ClusterOptions{}), spaces: new(atomic.Int64)}
	y.run = fmt.Sprintf("%x", time.Now().UnixMilli())
	var err error
	if y.runner, err = y.User("runner", "cairn-runners"); err != nil {
		t.Fatalf("make a user: %v", err)
	}
	return y
}

// open returns the access of a process of its own: its connections are not shared.
func (y *yard) open(t testbed.T, config *rest.Config, space string) *Backend {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Dial = (&net.Dialer{Timeout: patience}).DialContext
	b, err := Open(t.Context(), Options{Config: config, Namespace: space, UserAgent: "cairn-test", Now: time.Now})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// fresh returns the name of a namespace that is not there.
func (y *yard) fresh() string { return fmt.Sprintf("cairn-test-%s-%d", y.run, y.spaces.Add(1)) }

// space makes a namespace as the manifest describes it, with the rules, which
// the test's runner may use when space returns.
func (y *yard) space(t testbed.T, rules []Rule) string {
	t.Helper()
	space := y.fresh()
	text, err := Manifest{Namespace: space, Subjects: []Subject{{Kind: "Group", Name: "cairn-runners"}}}.Encode()
	if err != nil {
		t.Fatalf("manifest: %v", err)
	}
	admin := y.open(t, y.Config(), space)
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if doc["kind"] == "Role" {
			doc["rules"] = rulesOf(rules)
		}
		if err == nil {
			err = apply(t.Context(), admin, doc)
		}
		if err != nil {
			t.Fatalf("apply the manifest: %v", err)
		}
	}
	t.Cleanup(func() {
		c := call{verb: "delete", group: groupCore, resource: "namespaces", name: space, global: true}
		if err := admin.do(context.WithoutCancel(t.Context()), c, nil); err != nil {
			t.Errorf("remove the namespace: %v", err)
		}
	})
	y.await(t, space, rules)
	return space
}

// await waits until the server knows the rules: it learns of them a moment after
// they are made. The role and its rules come as one.
func (y *yard) await(t testbed.T, space string, rules []Rule) {
	t.Helper()
	b := y.open(t, y.runner, space)
	probe := leases("list", "")
	if !has(rules, "leases", "list") {
		probe = leases("get", "probe")
	}
	for deadline := time.Now().Add(patience); ; {
		var denied *DeniedError
		if err := b.do(t.Context(), probe, nil); !errors.As(err, &denied) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the role in %s does not come to be", space)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func has(rules []Rule, resource, verb string) bool {
	for _, r := range rules {
		if r.Resource == resource {
			for _, v := range r.Verbs {
				if v == verb {
					return true
				}
			}
		}
	}
	return false
}

func rulesOf(rules []Rule) []any {
	var all []any
	for _, r := range rules {
		all = append(all, map[string]any{"apiGroups": []string{r.Group}, "resources": []string{r.Resource}, "verbs": r.Verbs})
	}
	return all
}

// apply makes an object of a manifest.
func apply(ctx context.Context, admin *Backend, doc map[string]any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(doc); err != nil {
		return err
	}
	c := call{verb: "create", group: groupCore, typ: typeJSON, body: body.Bytes()}
	switch doc["kind"] {
	case "Namespace":
		c.resource, c.global = "namespaces", true
	case "ServiceAccount":
		c.resource = "serviceaccounts"
	case "Role":
		c.group, c.resource = "/apis/rbac.authorization.k8s.io/v1", "roles"
	case "RoleBinding":
		c.group, c.resource = "/apis/rbac.authorization.k8s.io/v1", "rolebindings"
	default:
		return fmt.Errorf("a manifest with a %v", doc["kind"])
	}
	return admin.do(ctx, c, nil)
}

// lose removes a shard behind everybody's back.
func (y *yard) lose(t *testing.T, space string) func(string) {
	admin := y.open(t, y.Config(), space)
	return func(shard string) {
		if err := admin.do(t.Context(), configMaps("delete", shard), nil); err != nil {
			t.Error(err)
		}
	}
}
