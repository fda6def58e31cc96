#!/usr/bin/env bash
# haproxy from end to end, see README.md.
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
need haproxy curl zip
programs
port web
port taken
lay 8080 "$web"
url=http://127.0.0.1:$web/
mkdir "$work/next"

# build N prepares haproxy.cfg as it is for build N.
build() { sed "s/string [0-9]*$/string $1/" "$example/site/haproxy.cfg" >"$work/next/haproxy.cfg"; }

start_agent
until_true "haproxy does not answer" answer "$url"
haproxy=$(pid_of_process)

say "warm, under load:"
begin_load "$url" 200 201
build 201
drop good 201 warm haproxy.cfg
expect "a new configuration" applied "$(outcome good)"
reaches "haproxy answers" 201 answer "$url"
expect "the process is the" same "$(same "$haproxy" "$(pid_of_process)")"
end_load "asked all along"

say "broken configurations, under load:"
begin_load "$url" 200 201 # a worker that is on its way out may still say 200
build 202
sed -i 's/http-request/http-quest/' "$work/next/haproxy.cfg"
drop broken 202 warm haproxy.cfg
expect "one that haproxy -c refuses" "rolled-back precheck-failed" "$(outcome broken)"

goserver -listen "127.0.0.1:$taken" -file "$example/agent.toml" & # holds a port
until_true "nobody holds the port" curl -sS "http://127.0.0.1:$taken/"
build 203
sed -i "s/^ *bind .*/&\n    bind 127.0.0.1:$taken/" "$work/next/haproxy.cfg"
drop unseen 203 warm haproxy.cfg
expect "one that haproxy -c accepts: its port is taken" "rolled-back unhealthy" "$(outcome unseen)"
reaches "haproxy answers" 201 answer "$url"
expect "the process is the" same "$(same "$haproxy" "$(pid_of_process)")"
end_load "the old answer all along"

say "cold, under load:"
begin_load "$url" 201 204
build 204
drop cold 204 cold haproxy.cfg
expect "a cold patch" applied "$(outcome cold)"
reaches "haproxy answers" 204 answer "$url"
expect "the process is an" other "$(same "$haproxy" "$(pid_of_process)")"
end_load "clients waited in the held socket"
stop_agent
result
