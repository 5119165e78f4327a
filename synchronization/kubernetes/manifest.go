package kubernetes

import (
	"fmt"
	"strings"
)

// DefaultAccount is the service account that a manifest makes for runners.
const DefaultAccount = "cairn"

// Rule is what a role allows in a namespace.
type Rule struct {
	// Group is the API group, "" for the core one.
	Group    string
	Resource string
	Verbs    []string
	// Why says for people what it is needed for.
	Why string
}

// Rules returns all that the ledger needs in its namespace.
func Rules() []Rule {
	return []Rule{
		{Group: "", Resource: "configmaps", Verbs: []string{"get", "list", "watch", "create", "patch"}, Why: "the ledger's record and shards"},
		{Group: "coordination.k8s.io", Resource: "leases", Verbs: []string{"get", "list", "create", "patch", "delete"}, Why: "the sessions of runners"},
		{Group: "", Resource: "events", Verbs: []string{"create"}, Why: "who broke a lock, and why"},
	}
}

// Subject is who may use a ledger.
type Subject struct {
	// Kind is ServiceAccount, User or Group.
	Kind string
	Name string
	// Namespace is that of a ServiceAccount.
	Namespace string
}

// Manifest describes a namespace for the ledgers of one scope of trust: whoever
// may write in it can decide what all others in it adopt.
type Manifest struct {
	Namespace string
	// Subjects may use it; none is the service account [DefaultAccount] of the
	// namespace, which the manifest then makes.
	Subjects []Subject
}

// Encode returns the manifest as YAML for "kubectl apply".
func (m Manifest) Encode() (string, error) {
	if !plainNamespace.MatchString(m.Namespace) {
		return "", fmt.Errorf("%q cannot be the name of a namespace", m.Namespace)
	}
	var y strings.Builder
	y.WriteString("# What cairn needs to coordinate runners. Whoever may write here can decide what\n" +
		"# all others adopt: give each scope of trust, such as forks, a namespace of its own.\n")
	m.head(&y, "v1", "Namespace", m.Namespace, false)
	subjects := m.Subjects
	if len(subjects) == 0 {
		m.head(&y, "v1", "ServiceAccount", DefaultAccount, true)
		subjects = []Subject{{Kind: "ServiceAccount", Name: DefaultAccount, Namespace: m.Namespace}}
	}
	m.head(&y, "rbac.authorization.k8s.io/v1", "Role", "cairn", true)
	y.WriteString("rules:\n")
	for _, r := range Rules() {
		fmt.Fprintf(&y, "  # %s\n  - apiGroups: [%q]\n    resources: [%q]\n    verbs: [\"%s\"]\n",
			r.Why, r.Group, r.Resource, strings.Join(r.Verbs, `", "`))
	}
	m.head(&y, "rbac.authorization.k8s.io/v1", "RoleBinding", "cairn", true)
	y.WriteString("roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: cairn\nsubjects:\n")
	for _, s := range subjects {
		if err := s.encode(&y); err != nil {
			return "", err
		}
	}
	return y.String(), nil
}

// head begins a document.
func (m Manifest) head(y *strings.Builder, version, kind, name string, inside bool) {
	fmt.Fprintf(y, "---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n", version, kind, name)
	if inside {
		fmt.Fprintf(y, "  namespace: %s\n", m.Namespace)
	}
	fmt.Fprintf(y, "  labels:\n    %s: %s\n", labelManager, manager)
}

func (s Subject) encode(y *strings.Builder) error {
	switch s.Kind {
	case "ServiceAccount":
		if !plainNamespace.MatchString(s.Namespace) {
			return fmt.Errorf("service account %q: %q cannot be the name of a namespace", s.Name, s.Namespace)
		}
		fmt.Fprintf(y, "  - kind: ServiceAccount\n    name: %q\n    namespace: %s\n", s.Name, s.Namespace)
	case "User", "Group":
		fmt.Fprintf(y, "  - apiGroup: rbac.authorization.k8s.io\n    kind: %s\n    name: %q\n", s.Kind, s.Name)
	default:
		return fmt.Errorf("subject %q: the kind %q is not known", s.Name, s.Kind)
	}
	return nil
}
