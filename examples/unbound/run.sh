#!/usr/bin/env bash
# unbound from end to end, see README.md.
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
need unbound unbound-checkconf zip
programs
port dns
lay 5353 "$dns"
server=127.0.0.1:$dns
mkdir "$work/next"

# build N prepares unbound.conf as it is for build N.
build() { sed "s/\b5353\b/$dns/; s/TXT \"200\"/TXT \"$1\"/" "$example/site/unbound.conf" >"$work/next/unbound.conf"; }

# begin_queries asks all the time until end_load; not so often that the queries of
# some seconds would not fit into the socket's buffer.
begin_queries() {
  ask -rate 50 -for 5m -timeout 30s -want here "$server" www.example >"$work/load.json" &
  asker=$!
}

start_agent
until_true "unbound does not answer" ask "$server" build.example
unbound=$(pid_of_process)

say "warm, under load:"
begin_queries
build 201
drop good 201 warm unbound.conf
expect "a new configuration" applied "$(outcome good)"
reaches "unbound answers" 201 ask "$server" build.example
expect "the process is the" same "$(same "$unbound" "$(pid_of_process)")"
end_load "asked all along"

say "broken configurations, under load:"
begin_queries
build 202
sed -i 's/num-threads/dumb-threads/' "$work/next/unbound.conf"
drop broken 202 warm unbound.conf
expect "one that unbound-checkconf refuses" "rolled-back precheck-failed" "$(outcome broken)"
build 203
sed -i 's/build.example. TXT/built.example. TXT/' "$work/next/unbound.conf"
drop unseen 203 warm unbound.conf
expect "one that lacks a name which is asked for" "rolled-back unhealthy" "$(outcome unseen)"
reaches "unbound answers" 201 ask "$server" build.example
expect "the process is the" same "$(same "$unbound" "$(pid_of_process)")"
end_load "the old answer all along"

say "cold:"
build 204
drop cold 204 cold unbound.conf
expect "a cold patch" applied "$(outcome cold)"
reaches "unbound answers" 204 ask "$server" build.example
expect "the process is an" other "$(same "$unbound" "$(pid_of_process)")"
stop_agent
result
