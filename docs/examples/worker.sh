#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A worker that waits for messages and never polls. It runs a command for each one, with the body on standard input:
#
#   sh worker.sh http://127.0.0.1:8888 demo mail cat
#
# Needs curl and jq. A message whose command fails is given to another worker when its claim is over, after 300 s.
url=$1 project=$2 queue=$3
shift 3
client=$(cat /proc/sys/kernel/random/uuid)

ask() { # METHOD PATH [OPTION...]
    method=$1 path=$2
    shift 2
    # The time-out has to be longer than the wait.
    curl -sf --max-time 30 -X "$method" -H "Client-ID: $client" -H "X-Project-ID: $project" \
        -H 'Content-Type: application/json' "$@" "$url$path"
}

while true; do
    # The last line is Retry-After: only there if the service did not wait, because too many clients do or because it is
    # being restarted.
    answer=$(ask POST "/v2/queues/$queue/claims?limit=1&wait=20" -d '{"ttl": 300, "grace": 60}' \
        -w '\n=%header{retry-after}') || { sleep 5; continue; }
    claim=$(printf '%s\n' "$answer" | sed '$d')
    pause=$(printf '%s\n' "$answer" | sed -n '$s/^=//p')
    if [ -n "$claim" ]; then
        printf '%s' "$claim" | jq -c '.messages[0].body' | "$@" &&
            ask DELETE "$(printf '%s' "$claim" | jq -r '.messages[0].href')"
    fi
    sleep "${pause:-0}"
done
