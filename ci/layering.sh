#!/usr/bin/env bash
# Who may know whom: the arrows between the crates (from cargo's own metadata), and what single rooms must not name.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need jq jq

violations=0
violation() {
  printf 'VIOLATION  %s\n' "$*"
  violations=$((violations + 1))
}

# 1. The arrows. Each crate and what it may depend on, also in its tests and build script; a crate that is not listed here
#    has no place in the house yet.
#      contract <- log <- bus <- engine, kit <- services/* <- sim, skald        contract <- sagas/core <- engine
shared='skald-contract skald-log skald-bus'
services='skald-order skald-product skald-payment skald-user skald-notification'
declare -A may=(
  [skald-contract]=''
  [skald-log]='skald-contract skald-log' # itself: its tests want the feature `testing`
  [skald-bus]='skald-contract skald-log'
  [skald-saga]='skald-contract'
  [skald-engine]="$shared skald-saga"
  [skald-kit]="$shared"
  [skald-sim]="$shared skald-saga skald-engine skald-kit $services"
  [skald]="$shared skald-saga skald-engine skald-kit $services"
  [skald-fuzz]="$shared skald-kit $services"
)
for service in $services; do may[$service]="$shared skald-saga skald-engine skald-kit"; done
# Crates that only compute: neither database nor network nor runtime.
declare -A pure=([skald-contract]=1 [skald-saga]=1)
io='sqlx tokio tokio-util axum hyper tonic rdkafka'

metadata=$(cargo metadata --locked --no-deps --format-version 1)
crates=$(jq -r '.packages[].name' <<<"$metadata" | sort)
edges=$(jq -r '.packages[] | .name as $from | .dependencies[]
  | "\($from) \(.name) \(.kind // "normal") \(if .path then "path" else "registry" end)"' <<<"$metadata" | sort -u)

arrows=0
for crate in $crates; do
  [ -n "${may[$crate]+listed}" ] || violation "$crate is not in the table of ci/layering.sh: which layer is it?"
  line=''
  while read -r to kind where; do
    case " $io " in
    *" $to "*) [ -z "${pure[$crate]:-}" ] || violation "$crate -> $to ($kind): $crate is pure, without I/O and async" ;;
    esac
    [ "$where" = path ] || continue
    arrows=$((arrows + 1))
    line+=" ${to#skald-}"
    [ "$kind" = normal ] || line+="($kind)"
    case " ${may[$crate]-} " in
    *" $to "*) ;;
    *) violation "$crate -> $to ($kind): the arrow is not in the design" ;;
    esac
  done < <(sed -n "s/^$crate //p" <<<"$edges")
  printf '  %-18s ->%s\n' "$crate" "${line:- nothing}"
done

# 2. The rooms. Comments may name what code may not.
# forbid WORDS WHY FILE...: none of the files has code that matches.
forbid() {
  local words=$1 why=$2 file line
  shift 2
  for file in "$@"; do
    while read -r line; do
      violation "$file:$line ($why)"
    done < <(sed -E 's@(^|[[:space:]])//.*@@' "$file" | grep -nE "$words" || true)
  done
}
mapfile -t pure_files < <(find events/contract sagas/core -name '*.rs' -path '*/src/*' | sort)
mapfile -t domains < <(find services -path '*/src/*' \( -name domain.rs -o -path '*/domain/*.rs' \) | sort)
mapfile -t doors < <(find services -path '*/src/*' \( -name http.rs -o -name grpc.rs \) ! -path 'services/kit/*' | sort)
mapfile -t above_log < <(find events sagas services -name '*.rs' -path '*/src/*' ! -path 'events/log/*' ! -name tests.rs ! -path '*/tests/*' | sort)

forbid '\b(sqlx|tokio|axum|async|SystemTime|Instant::now)\b' 'it decides: no I/O, no async, no clock' "${pure_files[@]}" "${domains[@]}"
forbid '\bsqlx\b' 'a door asks the store: no SQL' "${doors[@]}"
forbid '\bsqlx::(postgres|sqlite|Postgres|Sqlite|any)|\b(Pg|Sqlite)(Pool|Connection|ConnectOptions|Row|Arguments)|\bPRAGMA\b|\bFOR UPDATE\b|\bpg_[a-z]+' \
  'only events/log knows the dialects' "${above_log[@]}"

echo "$(wc -w <<<"$crates") crates, $arrows arrows; read ${#pure_files[@]} pure files, ${#domains[@]} domains, ${#doors[@]} doors," \
  "${#above_log[@]} files above the log"
[ "$violations" = 0 ] || fail "$violations violation(s) of the layering"
