#!/usr/bin/env bash
# The image, where there is a Docker: ci/image.sh build | up | scan | sbom | push.
#
#   build  builds it, as docker-compose.yml names it, and runs it once
#   up     starts everything of docker-compose.yml, looks whether it works, audits it, and removes it
#   scan   fails on a hole of high severity or worse that has been mended (grype)
#   sbom   writes what is in it to target/ci/sbom: the packages of the image, and the crates of the binary (syft)
#   push   brings it to ghcr.io, as a workflow of GitHub's; name and digest go to the next steps
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

grype=github.com/anchore/grype/cmd/grype@v0.121.2
syft=github.com/anchore/syft/cmd/syft@v1.57.0
image=$(sed -n 's/^  image: //p' docker-compose.yml)
commit=$(git rev-parse HEAD)
sbom=$STATE/sbom

build() {
  docker build --pull --build-arg "SKALD_COMMIT=$commit" --tag "$image" .
  docker run --rm --read-only --cap-drop ALL "$image" --version | grep -F "$commit" || fail "$image does not say that it is of $commit"
}

# The passwords and the data are nobody's: what is left of an earlier run goes as well.
up() {
  trap 'docker compose --progress quiet down --volumes' EXIT
  docker compose --progress quiet up --detach --no-build --wait --wait-timeout 300 || {
    docker compose ps --all
    docker compose logs --tail 40
    fail "not all of docker-compose.yml became healthy"
  }
  need curl curl
  need jq jq
  local url='http://127.0.0.1:9090/api/v1/query?query=sum(up)' services='' _
  # Prometheus has to have asked everybody once.
  for _ in $(seq 60); do
    services=$(curl -fsS "$url" | jq -r '.data.result[0].value[1] // empty')
    [ "$services" != 5 ] || break
    sleep 1
  done
  [ "$services" = 5 ] || fail "Prometheus reaches ${services:-no} services instead of 5"
  curl -fsS http://127.0.0.1:3000/api/search?tag=skald | jq -e 'length == 4' >/dev/null || fail "Grafana does not have the four dashboards"
  curl -fsS http://127.0.0.1:16686/api/services | jq -e . >/dev/null || fail "Jaeger does not answer"
  docker compose run --rm audit
}

scan() {
  "$(go_tool $grype)" "docker:$image" --only-fixed --fail-on high
}

sbom() {
  local tool
  tool=$(go_tool $syft)
  need jq jq
  mkdir -p "$sbom"
  "$tool" scan "docker:$image" --output "spdx-json=$sbom/image.spdx.json"
  # The binary does not tell its crates; the lock file does.
  "$tool" scan file:Cargo.lock --output "spdx-json=$sbom/crates.spdx.json"
  for file in "$sbom"/*; do
    jq -e '.packages | length > 50' "$file" >/dev/null || fail "$file is too short to be true"
  done
}

push() {
  local name digest
  name=ghcr.io/${GITHUB_REPOSITORY,,}
  printf '%s' "$GH_TOKEN" | docker login ghcr.io --username "$GITHUB_ACTOR" --password-stdin
  docker tag "$image" "$name:${image#*:}"
  docker push "$name:${image#*:}"
  digest=$(docker inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n "s,^$name@,,p" | head -1)
  [ -n "$digest" ] || fail "the pushed image has no digest"
  printf 'name=%s\ndigest=%s\n' "$name" "$digest" >>"$GITHUB_OUTPUT"
}

case ${1:-} in
build | up | scan | sbom | push) "$1" ;;
*) fail "build, up, scan, sbom or push" ;;
esac
