#!/usr/bin/env bash
# A release on GitHub, as its workflow: ci/release.sh check | publish. The tag is in GITHUB_REF_NAME.
#
#   check    the tag is the version of Cargo.toml, and CHANGELOG has a section about it
#   publish  makes the release, with that section and the bills of materials of ci/image.sh
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tag=${GITHUB_REF_NAME:?the tag}
version=${tag#v}

# The lines of CHANGELOG under the version's heading.
notes() { awk -v heading="## [$version]" '/^## /{ is_in = index($0, heading) == 1; next } /^\[.*\]: /{ is_in = 0 } is_in' CHANGELOG.md; }

check() {
  local declared
  declared=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
  [ "$tag" = "v$declared" ] || fail "the tag is $tag, and Cargo.toml says $declared"
  notes | grep -q '[^[:space:]]' || fail "CHANGELOG.md says nothing about $version"
}

publish() {
  notes >"$STATE/notes.md"
  gh release create "$tag" --verify-tag --title "Skald $version" --notes-file "$STATE/notes.md" "$STATE"/sbom/*.spdx.json
}

case ${1:-} in
check | publish) "$1" ;;
*) fail "check or publish" ;;
esac
