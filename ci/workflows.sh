#!/usr/bin/env bash
# .github/workflows: well formed (actionlint), and by the rules of the house: no rights but those that a job names, every action pinned
# to a commit with its version beside it, no credentials left in the checkout, and nothing is run but scripts of ci/.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need shellcheck shellcheck
actionlint=$(go_tool github.com/rhysd/actionlint/cmd/actionlint@v1.7.12)
"$actionlint" -no-color
shellcheck --external-sources --severity=warning .ci/run ci/*.sh

problems=0
problem() {
  printf 'PROBLEM  %s\n' "$*"
  problems=$((problems + 1))
}

# script FILE 'NAME ARGUMENTS': the script is there and can be run.
script() {
  [[ "$2" =~ ^[a-z0-9]+\.sh( [a-z0-9-]+)*$ && -x "ci/${2%% *}" ]] || problem "$1: '$2' is no script of ci/, with plain arguments"
}

count=0
for file in .github/workflows/*; do
  for line in 'permissions: {}' 'concurrency:'; do
    grep -qxF -- "$line" "$file" || problem "$file: has no line '$line' on top"
  done
  while read -r used; do
    count=$((count + 1))
    [[ "$used" =~ ^[A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+@[0-9a-f]{40}\ \#\ v[0-9]+(\.[0-9]+)*$ ||
      "$used" =~ ^\./\.github/workflows/[a-z]+\.yml$ ]] || problem "$file: '$used' is not pinned to a commit, with its version in a comment"
  done < <(sed -nE 's/^[- ]*uses: *//p' "$file")
  [ "$(grep -c 'uses: actions/checkout@' "$file")" = "$(grep -c 'persist-credentials: false' "$file")" ] ||
    problem "$file: a checkout keeps its credentials"
  while read -r run; do
    count=$((count + 1))
    # shellcheck disable=SC2016  # It is GitHub that puts something in place of it.
    case $run in
    'ci/${{ matrix.script }}') ;;
    ci/*) script "$file" "${run#ci/}" ;;
    *) problem "$file: '$run' is not a script of ci/" ;;
    esac
  done < <(sed -nE 's/^[- ]*run: *//p' "$file")
  while read -r entry; do script "$file" "$entry"; done < <(sed -nE '/^ +script:$/,/^ +[a-z]+:/ { /script:$/d; s/^ +- //p }' "$file")
done
[ "$count" -gt 0 ] || fail "found no step in .github/workflows"
[ "$problems" = 0 ] || fail "$problems problem(s)"
echo "$count steps of workflows and actions by the rules"
