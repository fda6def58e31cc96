#!/usr/bin/env bash
# nginx from end to end, see README.md.
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
need nginx curl zip
programs
port web
port taken
lay 8080 "$web"
url=http://127.0.0.1:$web/
mkdir "$work/next"

# build N prepares nginx.conf as it is for build N.
build() { sed "s/set \$build [0-9]*;/set \$build $1;/" "$example/site/nginx.conf" | sed "s/\b8080\b/$web/" >"$work/next/nginx.conf"; }

start_agent
until_true "nginx does not answer" answer "$url"
nginx=$(pid_of_process)

say "warm, under load:"
begin_load "$url" 200 201
build 201
drop good 201 warm nginx.conf
expect "a new configuration" applied "$(outcome good)"
reaches "nginx answers" 201 answer "$url"
expect "the process is the" same "$(same "$nginx" "$(pid_of_process)")"
end_load "asked all along"

say "broken configurations, under load:"
begin_load "$url" 200 201 # a worker that is on its way out may still say 200
build 202
sed -i 's/location/locution/' "$work/next/nginx.conf"
drop broken 202 warm nginx.conf
expect "one that nginx -t refuses" "rolled-back precheck-failed" "$(outcome broken)"

goserver -listen "127.0.0.1:$taken" -file "$example/agent.toml" & # holds a port
until_true "nobody holds the port" curl -sS "http://127.0.0.1:$taken/"
build 203
sed -i "s/^ *listen .*/&\n        listen 127.0.0.1:$taken;/" "$work/next/nginx.conf"
drop unseen 203 warm nginx.conf
expect "one that nginx -t accepts: its port is taken" "rolled-back unhealthy" "$(outcome unseen)"
reaches "nginx answers" 201 answer "$url"
expect "the process is the" same "$(same "$nginx" "$(pid_of_process)")"
end_load "the old answer all along"

say "the agent is killed, under load:"
begin_load "$url" 200 201 204
kill_agent
start_agent
expect "the process is the" same "$(same "$nginx" "$(pid_of_process)")"
build 204
drop adopted 204 warm nginx.conf
expect "a warm patch afterwards" applied "$(outcome adopted)"
reaches "nginx answers" 204 answer "$url"
end_load "asked all along"

say "cold, under load:"
begin_load "$url" 201 204 205
build 205
drop cold 205 cold nginx.conf
expect "a cold patch" applied "$(outcome cold)"
reaches "nginx answers" 205 answer "$url"
expect "the process is an" other "$(same "$nginx" "$(pid_of_process)")"
end_load "clients waited in the held socket"
stop_agent
result
