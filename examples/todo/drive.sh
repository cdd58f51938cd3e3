#!/usr/bin/env bash
# Uses the running to-do application as its page does, from end to end: examples/todo/drive.sh [http://127.0.0.1:8080]
set -euo pipefail
base=${1:-http://127.0.0.1:8080}/todo

die() {
  echo "$1" >&2
  exit 1
}

# ask STATUS METHOD PATH [BODY]: prints the answer's body.
ask() {
  local status=$1 method=$2 path=$3 answer
  answer=$(curl --silent --show-error --max-time 60 --request "$method" --header "authorization: Bearer ${token:-}" \
    --header 'content-type: application/json' ${4:+--data "$4"} --write-out '\n%{http_code}' "$base$path")
  [ "${answer##*$'\n'}" = "$status" ] || die "$method $path: not $status but $answer"
  printf '%s' "${answer%$'\n'*}"
}

# field NAME: a field of the JSON on standard input; `length` of a list is a field too.
field() {
  python3 -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value = len(value) if key == "length" else value[int(key) if key.isdigit() else key]
print(json.dumps(value) if not isinstance(value, str) else value)' "$1"
}

same() { [ "$1" = "$2" ] || die "$3: $1, not $2"; }

[[ $(ask 200 GET '') == *'<title>To do</title>'* ]] || die 'the page is not the page'
ask 401 GET /api/overview >/dev/null

name="Ada $RANDOM$RANDOM"
token=$(ask 201 POST /api/session "{\"name\":\"$name\"}" | field token)
same "$(ask 200 GET /api/overview | field user.name)" "$name" 'whose list'
same "$(ask 200 GET /api/todos | field length)" 0 'a new list'

first=$(ask 201 POST /api/todos '{"text":"write the notes"}' | field id)
second=$(ask 201 POST /api/todos '{"text":"feed the engine"}' | field id)
ask 400 POST /api/todos '{"text":" "}' >/dev/null
same "$(ask 200 GET /api/overview | field open)" 2 'open after two'

same "$(ask 200 PATCH "/api/todos/$first" '{"done":true}' | field 'done')" true 'done'
same "$(ask 200 PATCH "/api/todos/$second" '{"text":"feed the analytical engine"}' | field text)" 'feed the analytical engine' 'new text'
same "$(ask 200 GET /api/overview | field open)" 1 'open after one is done'

ask 204 DELETE "/api/todos/$first" >/dev/null
ask 404 DELETE "/api/todos/$first" >/dev/null
same "$(ask 200 GET /api/todos | field length)" 1 'after removing one'
same "$(ask 200 GET /api/todos | field 0.text)" 'feed the analytical engine' 'what is left'

# Somebody else sees nothing of it.
mine=$token
token=$(ask 201 POST /api/session "{\"name\":\"Grace $RANDOM$RANDOM\"}" | field token)
same "$(ask 200 GET /api/todos | field length)" 0 "another user's list"
ask 404 GET "/api/todos/$second" >/dev/null
token=$mine
ask 200 GET "/api/todos/$second" >/dev/null

echo 'the to-do application works, end to end'
