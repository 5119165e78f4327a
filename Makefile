# Targets print what they do; "make" alone lists them.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO ?= go
MODULE := github.com/cairnbuild/cairn
LDFLAGS := -s -w -X $(MODULE)/cmd/internal/cli.version=$(VERSION) -X main.version=$(VERSION)
# Only these are for other systems than Linux as well: the daemon needs Linux.
CLIENT := ./cmd/cairn
FUZZTIME ?= 20s

.DEFAULT_GOAL := help
.PHONY: help build demo test vet cross lint bench soak model fuzz tools setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/cairn and bin/cairnd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/cairn ./cmd/cairnd

demo: setup build ## Build a sample project four times, on disk and against a registry
	$(GO) run ./hack/demo

test: setup vet cross ## Run all tests, with the race detector
	hack/tools/install buildkit
	hack/tools/install kube
	hack/test

vet: ## Run go vet
	$(GO) vet ./...

cross: ## Check that the command line compiles for macOS and Windows
	set -e; for os in darwin windows; do for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -o /dev/null $(CLIENT); \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) vet $(CLIENT) ./cmd/internal/cli ./cmd/internal/wire ./stages/... ./storage/...; \
	done; done

lint: ## Run the linter; .golangci.yml says which rules
	hack/tools/install lint
	.cache/tools/bin/golangci-lint run ./...

bench: setup build ## Measure against plain BuildKit and write docs/benchmarks.md (CASE=… for one)
	hack/tools/install buildkit
	hack/tools/install kube-optimized
	$(GO) run ./hack/bench -rounds $(or $(ROUNDS),5) $(if $(CASE),-case $(CASE))

soak: setup ## Play 200 rounds of many runners with faults, 200 with cleaners, and compare 1,000 changed Dockerfiles (CASE=builds, cleaner or dockerfiles, ROUNDS=…, SEED=…)
	hack/tools/install kube
	$(if $(filter cleaner dockerfiles,$(CASE)),,$(GO) run ./hack/stress -rounds $(or $(ROUNDS),200) $(if $(SEED),-seed $(SEED)))
	$(if $(filter builds dockerfiles,$(CASE)),,$(GO) run ./hack/stress -cleaner -rounds $(or $(ROUNDS),200) $(if $(SEED),-seed $(SEED)))
	$(if $(filter builds cleaner,$(CASE)),,$(GO) test ./hack/e2e -timeout 12h -v -run TestNoChangeOfTheCorpusGivesAStaleImage -args -mutations $(or $(ROUNDS),1000) $(if $(SEED),-mutation-seed $(SEED)))

model: setup ## Check the protocol models and their mutants (hack/model -soak for larger ones)
	$(GO) run ./hack/model

fuzz: ## Run every fuzz test for FUZZTIME
	hack/fuzz $(FUZZTIME)

tools: ## Build the pinned linter, BuildKit and Kubernetes
	hack/tools/install lint
	hack/tools/install buildkit
	hack/tools/install kube

setup: ## Install what tests and demo need (Debian packages)
	hack/setup

clean: ## Remove what was built; make tools builds it again
	rm -rf bin .cache
