#!/usr/bin/env bash
# Runs examples as a newcomer does, `hearth up examples/NAME`, asks each what its check.sh says, stops it and looks for leftovers.
#
#   examples/check.sh [NAME...]        all of them without a name
#
# HEARTH names the binary (default: the release build, made when it is missing), HEARTH_BACKEND where instances run. Needs root and curl.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

HEARTH=${HEARTH:-target/release/hearth}
[ -x "$HEARTH" ] || cargo build --release || exit 1
HEARTH=$(readlink -f "$HEARTH")

work=$(mktemp -d)
export HEARTH_GATEWAY_LISTEN=127.0.0.1:${PORT:-18180} HEARTH_MANAGEMENT_LISTEN=127.0.0.1:${MANAGEMENT_PORT:-17170}
URL=http://$HEARTH_GATEWAY_LISTEN
export URL

checks=0 failures=0 up=

fail() {
  failures=$((failures + 1))
  printf 'FAILED  %s: %s\n' "$name" "$1"
}

# expect STATUS TEXT PATH [CURL-ARGUMENT...]: asks for PATH; the answer has this status and contains this text.
expect() {
  local status=$1 text=$2 path=$3 got
  shift 3
  checks=$((checks + 1))
  got=$(curl --silent --show-error --max-time 60 --output "$work/answer" --write-out '%{http_code}' "$@" "$URL$path" 2>"$work/curl") ||
    { fail "$path: $(cat "$work/curl")"; return; }
  [ "$got" = "$status" ] || { fail "$path: status $got, not $status: $(head -c 2000 "$work/answer")"; return; }
  grep --quiet --fixed-strings --text -e "$text" "$work/answer" || fail "$path: not \"$text\" but: $(head -c 2000 "$work/answer")"
}

# expect_output TEXT COMMAND...: the command succeeds and what it prints contains this text.
expect_output() {
  local text=$1
  shift
  checks=$((checks + 1))
  timeout 60 "$@" >"$work/answer" 2>&1 || { fail "$*: $(head -c 2000 "$work/answer")"; return; }
  grep --quiet --fixed-strings -e "$text" "$work/answer" || fail "$*: not \"$text\" but: $(head -c 2000 "$work/answer")"
}

# bytes NUMBER: a file of so many random bytes.
bytes() {
  head -c "$1" /dev/urandom >"$work/bytes.$1"
  echo "$work/bytes.$1"
}

# What a stopped controller must not leave on the machine: cgroups, mounts, its instances' files, processes, network devices.
leftovers() {
  local tag
  tag=$(printf %s "$(readlink -f "$HEARTH_DATA_DIR")" | sha256sum | cut -c1-8)
  find /sys/fs/cgroup -type d -path "*$tag*" 2>/dev/null
  grep -e "$tag" -e "$HEARTH_DATA_DIR" /proc/self/mounts
  find "/run/hearth/$tag" "/run/hearth/$tag-docker" -mindepth 1 2>/dev/null
  pgrep --full --list-full -- "$tag|$HEARTH_DATA_DIR"
  ip -oneline link 2>/dev/null | grep "$tag"
  # With HEARTH_BACKEND=docker.
  command -v docker >/dev/null && docker ps --all --quiet --filter "label=dev.hearth.data=$tag" 2>/dev/null
}

start() { # the manifests' directory
  "$HEARTH" up "$1" >"$work/up.log" 2>&1 </dev/null &
  up=$!
  local waited=0
  # Dependencies may have to be fetched: the first answer may take its time. Ready is when no function of it says otherwise.
  until "$HEARTH" get functions --output json 2>/dev/null | all_ready; do
    kill -0 $up 2>/dev/null || { fail "hearth up ended: $(tail -n 20 "$work/up.log")"; up=; return 1; }
    waited=$((waited + 1))
    [ $waited -lt 1500 ] || { fail "not ready: $("$HEARTH" get functions 2>&1) $(tail -n 20 "$work/up.log")"; return 1; }
    sleep 0.2
  done
}

all_ready() {
  python3 -c '
import json, sys
functions = json.load(sys.stdin).get("items", [])
ready = lambda f: any(c["type"] == "Ready" and c["status"] == "True" for c in f.get("status", {}).get("conditions", []))
sys.exit(not functions or not all(map(ready, functions)))' 2>/dev/null
}

stop() {
  [ -n "$up" ] || return
  kill -INT $up
  wait $up || fail "hearth up ended with status $? after Ctrl-C: $(tail -n 20 "$work/up.log")"
  up=
  local left
  left=$(leftovers)
  [ -z "$left" ] || fail "left behind: $left"
  # The next `up` would take away this one's functions; until then they would be found, and Ready.
  rm -f "$HEARTH_DATA_DIR/hearth.redb"
}

# shellcheck disable=SC2317  # called by the trap
cleanup() {
  [ -z "$up" ] || { kill -INT "$up"; wait "$up"; }
  declare -F after >/dev/null && after
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2046  # names without spaces
[ $# -gt 0 ] || set -- $(find examples -mindepth 2 -maxdepth 2 -name check.sh -printf '%h\n' | xargs -n1 basename | sort)
for name in "$@"; do
  EXAMPLE=examples/$name
  # Of its own: the functions of another would be ready before this one's are there.
  export HEARTH_DATA_DIR=$work/data/$name
  mkdir -p "$HEARTH_DATA_DIR"
  before=$failures began=$SECONDS
  unset -f before after 2>/dev/null
  # An example that needs something beside it starts it in a setup.sh, which may define `after`.
  # shellcheck disable=SC1090
  [ ! -e "$EXAMPLE/setup.sh" ] || . "$EXAMPLE/setup.sh"
  # shellcheck disable=SC1090
  start "$EXAMPLE" && . "$EXAMPLE/check.sh"
  stop
  if declare -F after >/dev/null; then after; unset -f after; fi
  [ $failures -gt $before ] || printf 'ok      %s (%d s)\n' "$name" $((SECONDS - began))
done
printf '%d examples, %d checks, %d failures\n' $# $checks $failures
[ $failures -eq 0 ]
