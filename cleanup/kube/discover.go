package kube

import (
	"context"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resource is what can be listed.
type resource struct {
	// path is that of all objects in all namespaces.
	path string
	// name is as permissions name it: "pods", "deployments.apps".
	name string
	kind string
}

// unlooked are resources that say nothing of what is in use: records of what has
// happened, what nodes have cached, and measurements.
func unlooked(group, name string) bool {
	switch group {
	case "metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io", "events.k8s.io", "coordination.k8s.io":
		return true
	case "":
		return slices.Contains([]string{"events", "nodes", "componentstatuses"}, name)
	}
	return false
}

// resources returns all that can be listed, and what could not be asked for.
func (c *client) resources(ctx context.Context) ([]resource, []*Error) {
	out, err := c.version(ctx, "", "/api/v1", nil)
	if err != nil {
		return nil, []*Error{c.fail("", err)}
	}
	var groups metav1.APIGroupList
	if err := c.get(ctx, "/apis", nil, &groups); err != nil {
		return nil, []*Error{c.fail("", err)}
	}
	var failed []*Error
	for _, g := range groups.Groups {
		if unlooked(g.Name, "") {
			continue
		}
		found, err := c.group(ctx, g)
		if err != nil {
			failed = append(failed, c.fail("*."+g.Name, err))
		}
		out = append(out, found...)
	}
	return out, failed
}

// group returns the resources of a group, each in one version.
func (c *client) group(ctx context.Context, g metav1.APIGroup) ([]resource, error) {
	versions := []string{g.PreferredVersion.GroupVersion}
	for _, v := range g.Versions {
		if !slices.Contains(versions, v.GroupVersion) {
			versions = append(versions, v.GroupVersion)
		}
	}
	var out []resource
	for _, v := range versions {
		found, err := c.version(ctx, g.Name, "/apis/"+v, out)
		if statusOf(err) == http.StatusNotFound {
			continue // it has just gone
		}
		if err != nil {
			return out, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// version returns what can be listed of a version, beside what known has.
func (c *client) version(ctx context.Context, group, path string, known []resource) ([]resource, error) {
	var list metav1.APIResourceList
	if err := c.get(ctx, path, nil, &list); err != nil {
		return nil, err
	}
	var out []resource
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || unlooked(group, r.Name) {
			continue
		}
		one := resource{path: path + "/" + r.Name, name: r.Name, kind: r.Kind}
		if group != "" {
			one.name += "." + group
		}
		if !slices.ContainsFunc(known, func(k resource) bool { return k.name == one.name }) {
			out = append(out, one)
		}
	}
	return out, nil
}
