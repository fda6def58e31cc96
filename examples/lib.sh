# shellcheck shell=bash
# What the run.sh of the examples have in common. Each of them sources this file, and
# runs a real program under the agent in a folder of its own below TMPDIR, on loopback
# ports that were free, without needing root. What was expected and what was seen is
# printed, one line a point; the script ends at the first that differs, and not with 0.
# Whatever it started has ended by then.
#
# Needs bash, zip, curl and Go. EXAMPLES_BIN may name a folder with the built programs
# patchagent, load, goserver and ask; they are built otherwise.
set -eEuo pipefail

example=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
patience=120 # seconds that any one step may take before the example is given up
rate=100     # requests a second of a load

work=$(mktemp -d "${TMPDIR:-/tmp}/patchagent-example-XXXXXX")
chmod 755 "$work" # for workers that run as another user
agent="" # pids of what runs
asker=""
ports=()

# finish ends all that was started, and removes what was made.
finish() {
  local status=$? pid left
  trap '' INT TERM
  for pid in $(jobs -pr); do end "$pid" TERM; done
  # Without an agent the process is left, as it should be; here it has to go.
  left=$(pid_of_process 2>/dev/null) || true
  if [ -n "$left" ]; then leave "$left"; fi
  if declare -F after >/dev/null; then after || true; fi
  rm -rf "$work" "${ports[@]}"
  exit "$status"
}
trap finish EXIT
trap 'say "given up: $BASH_COMMAND failed, in line $LINENO of ${BASH_SOURCE[0]}"' ERR
trap 'exit 130' INT TERM

# end PID SIGNAL ends a process of this script and waits for it.
end() {
  kill -"$2" "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# leave ends what an agent has left, with its children, and waits for that.
leave() {
  local tries=200 sig=TERM
  while [[ $(readlink "/proc/$1/cwd") == "$work"* ]] && [ $tries -gt 0 ]; do
    [ $tries -gt 50 ] || sig=KILL
    kill -$sig "$1" || true
    sleep 0.1
    tries=$((tries - 1))
  done
}

say() { printf '%s\n' "$*"; }

# need PROGRAM... ends the example where one is not installed.
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || { say "$program is not installed"; exit 3; }
  done
}

# give_up SENTENCE ends the example with what the agent said, also from a $(...).
give_up() {
  {
    say "given up: $*"
    if [ -f "$work/agent.log" ]; then say "the agent said:"; tail -n 40 "$work/agent.log"; fi
  } >&2
  [ "$BASHPID" = $$ ] || kill -TERM $$
  exit 1
}

# until_true SENTENCE COMMAND... waits for a command to succeed.
until_true() {
  local what=$1 end=$((SECONDS + patience))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || give_up "$what"
    if [ -n "$agent" ] && ! kill -0 "$agent" 2>/dev/null; then give_up "$what: the agent has ended"; fi
    sleep 0.05
  done
}

# expect POINT WANTED SEEN prints a point, and ends the example if it is not as expected.
expect() {
  if [ "$2" = "$3" ]; then
    printf '  %-66s %s\n' "$1" "$3"
    return
  fi
  printf '  %-66s %s  DIFFERS: expected %s\n' "$1" "$3" "$2"
  give_up "not all is as expected"
}

# port NAME sets that variable to a free port, below those that the system gives to
# clients: one of those could be taken by a client in the moment in which the server
# is away, even by one that asks for it. A folder keeps it from other examples.
port() {
  local n claim
  while :; do
    n=$((RANDOM % 12000 + 20000))
    claim=${TMPDIR:-/tmp}/patchagent-example-port-$n
    if grep -qi ":$(printf %04X $n) " /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 2>/dev/null; then continue; fi
    if mkdir "$claim" 2>/dev/null; then break; fi
  done
  ports+=("$claim")
  printf -v "$1" %s "$n"
}

# programs has those of this repository in $bin.
programs() {
  bin=${EXAMPLES_BIN:-}
  if [ -z "$bin" ]; then
    bin=$work/bin
    (cd "$examples/.." && go build -o "$bin/patchagent" ./agent && go build -o "$bin/" ./examples/load ./examples/goserver ./examples/unbound/ask)
  fi
  PATH=$bin:$PATH
}

# lay copies the example's agent.toml and site, with this run's port in place of theirs.
lay() { # THEIRS OURS
  cp -r "$example/site" "$work/"
  sed "s/\\b$1\\b/$2/g" "$example/agent.toml" >"$work/agent.toml"
  find "$work/site" -type f -exec sed -i "s/\\b$1\\b/$2/g" {} +
}

# start_agent starts it and waits until it is at work.
start_agent() {
  local said=0
  [ ! -f "$work/agent.log" ] || said=$(wc -c <"$work/agent.log")
  patchagent run -c "$work/agent.toml" >>"$work/agent.out" 2>>"$work/agent.log" &
  agent=$!
  until_true "the agent does not start" at_work "$said"
}

at_work() { tail -c +"$(($1 + 1))" "$work/agent.log" | grep 'watching'; }

# kill_agent is a crash: what it supervises stays.
kill_agent() {
  end "$agent" KILL
  agent=""
}

# stop_agent stops it and what it supervises.
stop_agent() {
  local status=0
  kill -TERM "$agent"
  wait "$agent" || status=$?
  agent=""
  expect "the agent, told to stop, ends with" 0 $status
}

# drop NAME BUILD warm|cold FILE... makes a package of files of $work/next, which are
# named as they are in the tree, and drops it as an operator would: the checksum, then
# the zip, which appears whole.
drop() {
  local name=$1 build=$2 warm=true file items=""
  [ "$3" = warm ] || warm=false
  shift 3
  rm -rf "$work/package"
  for file in "$@"; do
    mkdir -p "$work/package/mod/$(dirname "$file")"
    cp -p "$work/next/$file" "$work/package/mod/$file"
    items+="${items:+, }{\"name\": \"$file\", \"path\": \"/\"}"
  done
  printf '{"justres": %s, "region": "us-east-1", "build": "%s", "modfiles": [%s]}\n' $warm "$build" "$items" >"$work/package/manifest.json"
  (cd "$work/package" && zip -qr "../$name.zip" .)
  (cd "$work" && sha256sum "$name.zip" >"patch/$name.zip.sha256" && mv "$name.zip" "patch/$name.zip")
}

receipt() { grep -h "\"patch\":\"$1.zip\"" "$work/.patchagent/receipts.jsonl"; }

# outcome NAME waits for the outcome of a package and prints it: "applied", or
# "rolled-back precheck-failed".
outcome() {
  until_true "$1.zip has no outcome" receipt "$1"
  receipt "$1" | sed -n 's/.*"outcome":"\([^"]*\)".*"reason":"\([^"]*\)".*/\1 \2/p' | sed 's/ $//'
}

# pid_of_process is who the agent supervises.
pid_of_process() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$work/.patchagent/process.json" | head -n 1; }

same() { if [ "$1" = "$2" ]; then say same; else say other; fi; }

# reaches POINT WANTED COMMAND... is expect for what may need a moment: the command is
# repeated until it prints what is wanted.
reaches() {
  local point=$1 wanted=$2 seen="" end=$((SECONDS + patience))
  shift 2
  while seen=$("$@" 2>&1) || true; [ "$seen" != "$wanted" ] && [ $SECONDS -lt $end ]; do sleep 0.05; done
  expect "$point" "$wanted" "$seen"
}

# answer URL
answer() { curl -fsS -m 10 "$1"; }

# begin_load URL BODY... asks all the time, on a new connection each, until end_load;
# each answer has to be one of the bodies.
begin_load() {
  local url=$1 wanted=() body
  shift
  for body in "$@"; do wanted+=(-want "$body"); done
  load -rate "$rate" -for 5m -timeout 30s -json "${wanted[@]}" "$url" >"$work/load.json" &
  asker=$!
}

# end_load prints how many requests failed of how many: "0 failed".
end_load() { # POINT
  end "$asker" TERM
  asker=""
  [ -s "$work/load.json" ] || give_up "the load has no figures"
  local requests ok
  requests=$(figure requests)
  ok=$(figure ok)
  if [ "$requests" != "$ok" ]; then sed 's/^/    /' "$work/load.json"; fi
  expect "$1, of $requests requests" "0 failed" "$((requests - ok)) failed"
}

figure() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$work/load.json"; }

# result ends the example.
result() { say "all as expected"; }
