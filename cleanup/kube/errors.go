package kube

import (
	"fmt"
	"net/http"
)

// Error is something of a cluster that could not be read.
type Error struct {
	// Cluster is the name of its context.
	Cluster string
	// Resource is what was to be listed, "deployments.apps"; empty for what the
	// cluster has at all.
	Resource string
	// Status is the API server's HTTP status, 0 where it did not answer.
	Status int
	// Err is what it said, or why it did not answer.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	what := "cannot be asked what it has"
	if e.Resource != "" {
		what = "cannot list " + e.Resource
	}
	if e.Denied() && e.Resource != "" {
		what = fmt.Sprintf("lacks the permission to list %s in all namespaces", e.Resource)
	}
	return fmt.Sprintf("cluster %s: %s: %v", e.Cluster, what, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Denied reports whether a permission is missing.
func (e *Error) Denied() bool {
	return e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized
}

// Hint says what to do.
func (e *Error) Hint() string {
	if e.Denied() {
		return "a ClusterRole that allows get and list of all resources (apiGroups [\"*\"], resources [\"*\"]) is enough; without looking into clusters, and at your own risk: --without-kube"
	}
	return "check the kubeconfig and the network; choose clusters with --kube-context; without looking into clusters, and at your own risk: --without-kube"
}
