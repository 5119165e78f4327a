#!/bin/sh
# For a CI system that cairn does not know: say what the run is about, and build.
# REGISTRY_USER and REGISTRY_PASSWORD are the job's login to the registry.
set -eu
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT

# What the system calls them is to be filled in; what does not apply stays empty.
export CAIRN_CI_BRANCH="${MY_BRANCH:-}" CAIRN_CI_TAG="${MY_TAG:-}" CAIRN_CI_COMMIT="${MY_COMMIT:-}"
export CAIRN_CI_PULL_REQUEST="${MY_PULL_REQUEST:-}" CAIRN_CI_JOB_URL="${MY_JOB_URL:-}"
export CAIRN_STAGES_STORAGE="${CAIRN_STAGES_STORAGE:-registry.example.com/shop/stages}"

cairn ci-env generic --protected main --protected 'refs/tags/v*' \
  --registry-user "${REGISTRY_USER:-}" --registry-password-env REGISTRY_PASSWORD \
  --docker-config "$settings/docker" --as-file "$settings/env"
. "$settings/env"
cairn build "$@"
