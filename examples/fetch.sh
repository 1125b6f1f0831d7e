#!/bin/sh
# Lists the files that a pattern means and fetches them: sh fetch.sh CREDENTIALS PATTERN FOLDER
set -eu
[ $# = 3 ] && [ -d "$3" ] || { echo "usage: sh fetch.sh CREDENTIALS PATTERN FOLDER" >&2; exit 2; }
keys=$1 pattern=$2 folder=$3
read -r name host port _ < "$keys/server"
case $host in *:*) host="[$host]" ;; esac
ask() { # PATH [CURL'S OPTIONS]
    path=$1
    shift
    curl --silent --show-error --fail --cacert "$keys/group.crt" --cert "$keys/member.crt" --key "$keys/member.key" \
        --connect-to "::$host:$port" "$@" "https://$name$path"
}
found=$(ask /v1/find --get --data-urlencode "pattern=$pattern" --header "Accept: text/plain")
printf '%s\n' "$found" | tr -d '\000-\011\013-\037\177' |
while read -r cid size place; do
    [ -n "$cid" ] || continue
    printf '%s %s\n' "$size" "$place"
    to=$folder/${place##*/}
    [ ! -e "$to" ] || { echo "$to is there already" >&2; exit 1; }
    digest=$(ask "/v1/blob/$cid" --header "Want-Repr-Digest: sha-256=1" --dump-header - --output "$to.part" < /dev/null |
        tr -d '\r' | sed -n 's/^[Rr]epr-[Dd]igest: sha-256=:\(.*\):$/\1/p' | base64 -d | od -An -v -tx1 | tr -d ' \n')
    [ "$(sha256sum < "$to.part")" = "$digest  -" ] || { echo "wrong bytes" >&2; rm -f "$to.part"; exit 1; }
    mv "$to.part" "$to"
done
