#!/usr/bin/env bash
# What a reader finds is finished and leads somewhere: no reminders left behind, no link to a file that is not there.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

problems=0
problem() {
  printf 'PROBLEM  %s\n' "$*"
  problems=$((problems + 1))
}

# The project's own text files: tracked ones and new ones, without what is ignored. A checkout without git is searched.
list() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard
  else
    find . -type f -not -path './target/*' -not -path './.git/*' | sed 's@^\./@@'
  fi
}
mapfile -t files < <(list | sort)
[ ${#files[@]} -gt 0 ] || fail "found no files"

# Spelt in two halves, so that this script does not find itself.
reminder='TO''DO|FIX''ME|XX''X'
while IFS= read -r line; do
  [ -z "$line" ] || problem "a reminder: $line"
done < <(for file in "${files[@]}"; do [ ! -f "$file" ] || printf '%s\0' "$file"; done | xargs -0 grep -IHnwE "$reminder" || true)

# The targets of a Markdown file's links, [text](target) and [text]: target, outside of code.
links() {
  awk '/^[[:space:]]*```/ { code = !code; next } !code { gsub(/`[^`]*`/, ""); print }' "$1" |
    grep -oE '\]\([^) ]+|^\[[^]]+\]:[[:space:]]+[^[:space:]]+' | sed -E 's/^\]\(//; s/^\[[^]]+\]:[[:space:]]+//; s/^<//; s/>$//' || true
}
pages=0
checked=0
for file in "${files[@]}"; do
  case $file in *.md) ;; *) continue ;; esac
  [ -f "$file" ] || continue
  pages=$((pages + 1))
  while IFS= read -r target; do
    case $target in '' | \#* | http://* | https://* | mailto:*) continue ;; esac
    checked=$((checked + 1))
    [ -e "$(dirname "$file")/${target%%#*}" ] || problem "$file links to $target, which is not there"
  done < <(links "$file")
done

python3 ci/signatures.py || problem "docs/signatures.md does not sign as the services do"

echo "${#files[@]} files without reminders; $checked links between files in $pages pages"
[ "$problems" = 0 ] || fail "$problems problem(s)"
