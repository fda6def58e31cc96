#!/usr/bin/env bash
# A Python server from end to end, see README.md.
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
need python3 curl zip
programs
port web
lay 8080 "$web"
if [ "${PYTHON_SERVER:-gunicorn}" != gunicorn ] || ! command -v gunicorn >/dev/null; then
  say "python3 serve.py, without gunicorn:"
  sed -i "s/^command .*/command = [\"python3\", \"serve.py\", \"127.0.0.1:$web\"]/" "$work/agent.toml"
fi
url=http://127.0.0.1:$web/
mkdir "$work/next"
rate=50 # which one process of Python answers also on a busy machine

# build N prepares app.py as it is for build N.
build() { sed "s/^BUILD = .*/BUILD = $1/" "$example/site/app.py" >"$work/next/app.py"; }

start_agent
until_true "the server does not answer" answer "$url"
server=$(pid_of_process)

say "warm, under load:"
begin_load "$url" 200 201
build 201
drop good 201 warm app.py
expect "new code" applied "$(outcome good)"
reaches "the server answers" 201 answer "$url"
end_load "asked all along"

say "broken code, under load:"
begin_load "$url" 200 201 203
build 202
echo "import not_there" >>"$work/next/app.py"
drop broken 202 warm app.py
expect "code that cannot be imported" "rolled-back precheck-failed" "$(outcome broken)"
build 203
sed -i 's/return "ok"/raise RuntimeError("no")/' "$work/next/app.py"
drop unseen 203 warm app.py
expect "code that is not healthy" "rolled-back unhealthy" "$(outcome unseen)"
reaches "the server answers" 201 answer "$url"
expect "the process is the" same "$(same "$server" "$(pid_of_process)")"
end_load "asked all along"

say "cold, under load:"
begin_load "$url" 201 203 204
build 204
drop cold 204 cold app.py
expect "a cold patch" applied "$(outcome cold)"
reaches "the server answers" 204 answer "$url"
expect "the process is an" other "$(same "$server" "$(pid_of_process)")"
end_load "clients waited in the held socket"
stop_agent
result
