package registry

import (
	"net/url"
	"strings"
)

// Product is a kind of registry, as far as deletions differ.
type Product struct {
	// Name is "" for one that nothing is known of: what it can do is tried out.
	Name string
	// Verified says that the tests of this module run what is done with it against the
	// server itself, or against a model of what its documents say. Of others nobody has
	// told yet.
	Verified bool
	// Needs says for people what deletions need there.
	Needs string

	api func(s *Storage, realm *url.URL) tagAPI // nil where the distribution API does
}

// The products that are known.
const (
	ProductGitLab = "GitLab"
	ProductHarbor = "Harbor"
	ProductACR    = "Azure Container Registry"
	ProductECR    = "Amazon ECR"
	ProductGoogle = "Google Artifact Registry"
	ProductGHCR   = "GitHub Packages"
	ProductHub    = "Docker Hub"
	ProductQuay   = "Quay"
)

// Product returns what is known of the registry: by its name, or by how it asks who
// is there, once it has asked.
func (s *Storage) Product() Product {
	s.host.auth.mu.Lock()
	learned := s.host.auth.learned
	s.host.auth.mu.Unlock()
	return productOf(s.host.name, learned)
}

func productOf(host string, asked *challenge) Product {
	name, _, _ := strings.Cut(host, ":")
	for _, p := range hosted() {
		if p.is(name) {
			return p.Product
		}
	}
	if asked == nil {
		return Product{}
	}
	switch {
	case asked.params["service"] == "harbor-registry":
		return Product{
			Name: ProductHarbor, Verified: true, api: newHarbor,
			Needs: "a robot account or user with the permission \"Delete Tag\" in the project, and no immutability rule that matches the tags",
		}
	case asked.params["service"] == "container_registry" && strings.HasSuffix(asked.params["realm"], "/jwt/auth"):
		return Product{
			Name: ProductGitLab, Verified: true, api: newGitLab,
			Needs: "a token of a Developer or above: for the registry itself with the scope write_registry, or for GitLab's API with the scope api",
		}
	}
	return Product{}
}

// hostedProduct is a registry that its host's name tells.
type hostedProduct struct {
	Product
	is func(host string) bool
}

func hosted() []hostedProduct {
	named := func(names ...string) func(string) bool {
		return func(host string) bool {
			for _, n := range names {
				if host == n || strings.HasPrefix(n, ".") && strings.HasSuffix(host, n) {
					return true
				}
			}
			return false
		}
	}
	return []hostedProduct{
		{Product{Name: ProductACR, Needs: "a role with the action delete in the repository (AcrDelete, or a token with content/delete)", api: newACR}, named(".azurecr.io", ".azurecr.cn", ".azurecr.us")},
		{Product{Name: ProductECR, Needs: "the permission ecr:BatchDeleteImage, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY in the environment: ECR does not take Docker's login for deletions", api: newECR}, isECR},
		{Product{Name: ProductGoogle, Needs: "the permission artifactregistry.tags.delete (roles/artifactregistry.repoAdmin)"}, named(".pkg.dev", "gcr.io", ".gcr.io")},
		{Product{Name: ProductGHCR, Needs: "a classic token with the scopes write:packages and delete:packages, of an administrator of the package", api: newGHCR}, named("ghcr.io")},
		{Product{Name: ProductHub, Needs: "an access token with the permissions Read, Write, Delete", api: newHub}, named("index.docker.io", "registry-1.docker.io", "docker.io")},
		{Product{Name: ProductQuay, Needs: "a robot account with the permission Write or Admin in the repository"}, named("quay.io")},
	}
}

func isECR(host string) bool {
	_, rest, ok := strings.Cut(host, ".dkr.ecr")
	return ok && strings.Contains(rest, ".amazonaws.com")
}
