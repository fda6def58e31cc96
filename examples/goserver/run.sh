#!/usr/bin/env bash
# The Go server from end to end, see README.md.
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
need curl zip
programs
port web
lay 8080 "$web"
url=http://127.0.0.1:$web/
mkdir -p "$work/site/bin" "$work/next/bin"
cp "$bin/goserver" "$work/site/bin/"
{ cat "$bin/goserver"; echo; } >"$work/next/bin/goserver" # another file, the same program
chmod 755 "$work/next/bin/goserver"

start_agent
until_true "the server does not answer" answer "$url"
server=$(pid_of_process)

say "warm, under load:"
begin_load "$url" 200 201
echo 201 >"$work/next/build.txt"
drop good 201 warm build.txt
expect "a new answer, and the server has confirmed it" applied "$(outcome good)"
expect "the server answers" 201 "$(answer "$url")"
expect "the process is the" same "$(same "$server" "$(pid_of_process)")"
end_load "asked all along"

say "broken answers, under load:"
begin_load "$url" 201 none
: >"$work/next/build.txt"
drop broken 202 warm build.txt
expect "one that the precheck refuses" "rolled-back precheck-failed" "$(outcome broken)"
echo none >"$work/next/build.txt"
drop unseen 203 warm build.txt
expect "one that is not healthy" "rolled-back unhealthy" "$(outcome unseen)"
expect "the server answers" 201 "$(answer "$url")"
expect "the process is the" same "$(same "$server" "$(pid_of_process)")"
end_load "asked all along"

say "the agent is killed, under load; then cold:"
begin_load "$url" 201 204
kill_agent
start_agent
expect "the process is the" same "$(same "$server" "$(pid_of_process)")"
echo 204 >"$work/next/build.txt"
drop cold 204 cold build.txt bin/goserver
expect "a cold patch of the adopted process" applied "$(outcome cold)"
expect "the server answers" 204 "$(answer "$url")"
expect "the process is an" other "$(same "$server" "$(pid_of_process)")"
end_load "clients waited in the held socket"
stop_agent
result
