#!/bin/sh
# The plugin's own test: sh test.sh
set -eu
plugin=$(cd "$(dirname "$0")" && pwd)/migrate-step-team.example
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"
call='"context":{"run":"r","node":"n","attempt":1,"key":"n-1","project_dir":"'$folder'"},"config":{"file":"made"}'
answers=$(printf '%s\n' \
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocol_versions":[1]}}' \
    '{"jsonrpc":"2.0","id":2,"method":"apply","params":{'"$call"'}}' \
    '{"jsonrpc":"2.0","id":3,"method":"verify","params":{'"$call"',"outputs":{"file":"made"},"depth":"quick"}}' \
    '{"jsonrpc":"2.0","method":"shutdown","params":{}}' | "$plugin")
[ -e made ] || { echo "FAILED: no file was made" >&2; exit 1; }
for expected in '{"outputs":{"file":"made"}}' '"status":"passed"'; do
    case $answers in *"$expected"*) ;; *) echo "FAILED: no $expected in $answers" >&2; exit 1 ;; esac
done
echo ok
