#!/usr/bin/env bash
# A service of systemd from end to end, see README.md.
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

unit=app.service
units=$work/stand-in
case $(systemctl is-system-running 2>/dev/null) in
running | degraded) if [ "$(id -u)" = 0 ]; then units=/run/systemd/system unit=patchagent-example-$$.service; fi ;;
esac
if [ "$units" = "$work/stand-in" ]; then
  say "systemd does not run here, or this is not root: a stand-in for systemctl is used"
  cp -r "$example/stand-in" "$work/"
  PATH=$units:$PATH
fi
sed "s|/srv/app|$work/site|; s/8080/$web/" "$example/app.service" >"$units/$unit"
sed -i "s/app\.service/$unit/" "$work/agent.toml"
after() {
  systemctl stop "$unit"
  [ "$units" != /run/systemd/system ] || { rm -f "$units/$unit" && systemctl daemon-reload; }
}
[ "$units" != /run/systemd/system ] || systemctl daemon-reload

systemctl start "$unit"
until_true "the service does not answer" answer "$url"
start_agent

say "warm, under load:"
begin_load "$url" 200 201
echo 201 >"$work/next/build.txt"
drop good 201 warm build.txt
expect "a new answer" applied "$(outcome good)"
reaches "the service answers" 201 answer "$url"
end_load "asked all along"

say "a broken one, under load:"
begin_load "$url" 201 none
echo none >"$work/next/build.txt"
drop broken 202 warm build.txt
expect "one that is not healthy" "rolled-back unhealthy" "$(outcome broken)"
reaches "the service answers" 201 answer "$url"
end_load "asked all along"

say "cold:"
echo 203 >"$work/next/build.txt"
drop cold 203 cold build.txt bin/goserver
expect "a cold patch, by systemctl stop and start" applied "$(outcome cold)"
reaches "the service answers" 203 answer "$url"

say "a cold one that does not come up:"
printf '#!/bin/sh\nexit 1\n' >"$work/next/bin/goserver"
drop dead 204 cold bin/goserver
expect "the outcome begins with" rolled-back "$(outcome dead | cut -d' ' -f1)"
reaches "the service answers" 203 answer "$url"

stop_agent
reaches "the service goes on without the agent, and answers" 203 answer "$url"
result
