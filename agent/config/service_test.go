package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	external = "region = \"r\"\n[target.external]\nstart = [\"up\"]\nstop = [\"down\"]\nstatus = [\"is-up\"]\n"
	held     = base + "[[target.socket]]\n"
)

func TestServiceRefused(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		// The gate and the notifications.
		{base + "[target.gate]\n", "agent.toml:4: target.gate: asks nobody; set exec or http in it"},
		{base + "[target.gate]\nretry = \"1s\"\n", "agent.toml:4: target.gate: asks nobody"},
		{base + "[target.gate]\nexec = []\nhttp = \"\"\n", "target.gate: asks nobody"},
		{base + "[target.gate]\nexec = [\"x\"]\nhttp = \"http://h/\"\n", "target.gate.http: only one of exec, http can be set, and exec is set too"},
		{base + "[target.gate]\nexec = [\"\"]\n", "target.gate.exec: begins with an empty string"},
		{base + "[target.gate]\nhttp = \"h:80\"\n", `target.gate.http: "h:80" is not an address`},
		{base + "[target.gate]\nexec = [\"x\"]\nretry = \"0s\"\n", "target.gate.retry: must be more than nothing"},
		{base + "[target.gate]\nexec = [\"x\"]\nmax_wait = \"0s\"\n", "target.gate.max_wait: must be more than nothing"},
		{base + "[target.gate]\nexec = [\"x\"]\nretry = \"1h\"\n", "agent.toml:6: target.gate.retry: is 1h, longer than target.gate.max_wait, which is 30m"},
		{base + "[target.gate]\nexec = [\"x\"]\nmax_wait = \"1s\"\n", "agent.toml:6: target.gate.max_wait: is 1s, shorter than target.gate.retry, which is 5s"},
		{base + "[target.gate]\nhttp = \"http://127.0.0.1:99999/\"\n", `target.gate.http: "http://127.0.0.1:99999/" has a port that is none`},
		{base + "[target.ready]\nnotify = true\ntcp = \"h:1\"\n", "only one of delay, notify, http, tcp, exec can be set"},
		{base + "[target.ready]\nnotify = true\ndelay = \"1s\"\n", "only one of delay, notify, http, tcp, exec can be set"},
		{base + "[target.reload]\nsignal = \"\"\nconfirm = \"notify\"\n", `target.reload.confirm: is "notify", and the process is not told anything that it could confirm`},
		{without("target.reload.confirm", `"maybe"`), "it must be one of none, notify"},
		{without("target.watchdog", `"99ms"`), `target.watchdog: is 99ms; it must be at least 100ms, or "0s" for none`},
		{without("target.env", `{ NOTIFY_SOCKET = "/x" }`), "agent.toml:4: target.env: NOTIFY_SOCKET is for the agent to set"},
		{without("target.env", `{ LISTEN_FDS = "1" }`), "target.env: LISTEN_FDS is for the agent to set"},
		// What is set between fork and exec.
		{without("target.umask", `27`), `target.umask: is a bare number; it must be octal digits in quotes: write "0027"`},
		{without("target.umask", `"0028"`), `target.umask: "0028" is not octal digits up to "0777"; write them like "0027"`},
		{without("target.umask", `"0700"`), `agent.toml:4: target.umask: is "0700", which takes the right to read, write or search what it makes from the process itself`},
		{without("target.umask", `"0122"`), `target.umask: is "0122", which takes`},
		{held + "listen = \"unix:/a\"\nmode = 660\n", `agent.toml:6: target.socket: mode is a bare number; it must be octal digits in quotes: write "0660"`},
		{without("target.umask", `"1777"`), `target.umask: "1777" is not octal digits`},
		{without("target.umask", `"-22"`), `target.umask: "-22" is not octal digits`},
		{without("target.nice", `"5"`), "target.nice: is a string; it must be a whole number"},
		{without("target.nice", `1.5`), "target.nice: is a fraction; it must be a whole number"},
		{without("target.nice", `-21`), "target.nice: is -21; it must be from -20, the most urgent, to 19"},
		{without("target.nice", `20`), "target.nice: is 20; it must be from -20"},
		{without("target.rlimits", `{ nofiles = 1 }`), "agent.toml:4: target.rlimits: has nofiles, which is no limit; did you mean nofile?"},
		{base + "[target.rlimits]\nRLIMIT_CORE = 1\n", "agent.toml:4: target.rlimits: has RLIMIT_CORE, which is no limit; did you mean core?"},
		{without("target.rlimits", `{ nofile = true }`), `nofile is true or false; it must be a whole number, "unlimited", or both limits like "1024:65536"`},
		{without("target.rlimits", `{ nofile = -1 }`), `nofile is -1; write "unlimited" for no limit`},
		{without("target.rlimits", `{ nofile = "infinity" }`), `nofile is "infinity"; it must be a whole number`},
		{without("target.rlimits", `{ nofile = "1:" }`), `nofile is "1:"; it must be a whole number`},
		{without("target.rlimits", `{ nofile = "1:2:3" }`), `nofile is "1:2:3"; it must be`},
		{without("target.rlimits", `{ nofile = "99999999999999999999:unlimited" }`), "; it must be a whole number"},
		{without("target.rlimits", `{ nofile = "2:1" }`), `nofile is "2:1"; the first, which holds, cannot be more than the second`},
		{without("target.rlimits", `{ core = "unlimited:0" }`), `core is "unlimited:0"; the first`},
		{without("target.rlimits", `{ core = { soft = 1 } }`), "core is a section; it must be a whole number"},
		// Restarts.
		{without("target.restart_delay", `"0s"`), "target.restart_delay: is 0s; it must be at least 10ms"},
		{without("target.restart_delay", `"1m"`), "agent.toml:4: target.restart_delay: target.restart_max_delay is 30s, shorter than target.restart_delay, which is 1m"},
		{without("target.restart_max_delay", `"100ms"`), "agent.toml:4: target.restart_max_delay: target.restart_max_delay is 100ms, shorter than"},
		{without("target.restart_limit", `-1`), "target.restart_limit: is -1; it must be from 1 to 10000, or 0 for no limit"},
		{without("target.restart_limit", `10001`), "target.restart_limit: is 10001"},
		{without("target.restart_window", `"0s"`), "target.restart_window: must be more than nothing"},
		// Hooks.
		{without("target.hooks.after_files", `[""]`), "target.hooks.after_files: begins with an empty string"},
		{without("target.hooks.before_stop", `"true"`), "target.hooks.before_stop: is a string; it must be a list of strings"},
		{without("target.hooks.timeout", `"0s"`), "target.hooks.timeout: must be more than nothing"},
		{without("target.hooks.after_stop", `["x"]`), "target.hooks.after_stop: there is no such key; did you mean target.hooks.after_start?"},
		// A service of another manager's.
		{"region = \"r\"\n[target.external]\n", `agent.toml:2: target.external.start: must be set: the command that does it, such as ["systemctl", "start", "app"]`},
		{"region = \"r\"\n[target.external]\n", "target.external.stop: must be set"},
		{"region = \"r\"\n[target.external]\n", "target.external.status: must be set"},
		{external + "timeout = \"0s\"\n", "target.external.timeout: must be more than nothing"},
		{external + "reload = [\"\"]\n", "target.external.reload: begins with an empty string"},
		{external + "[target]\ncommand = [\"app\"]\n", "agent.toml:7: target.command: cannot be set together with [target.external]: it is the other manager that runs the service"},
		{external + "[target]\noutput = \"x\"\n", "target.output: cannot be set together with [target.external]: the output belongs to the manager"},
		{external + "[target]\numask = \"0022\"\n", "target.umask: cannot be set together with"},
		{external + "[target]\nnice = 0\n", "target.nice: cannot be set together with"},
		{external + "[target.rlimits]\ncore = 0\n", "agent.toml:6: target.rlimits: cannot be set together with"},
		{external + "[target]\nwatchdog = \"1s\"\n", "target.watchdog: cannot be set together with"},
		{external + "[target]\nstop_signal = \"SIGTERM\"\n", "target.stop_signal: cannot be set together with"},
		{external + "[target]\nstop_timeout = \"5s\"\n", "target.stop_timeout: cannot be set together with"},
		{external + "[target]\nrestart = \"always\"\n", "target.restart: cannot be set together with"},
		{external + "[target]\nrestart_delay = \"1s\"\n", "target.restart_delay: cannot be set together with"},
		{external + "[target]\nrestart_max_delay = \"1m\"\n", "target.restart_max_delay: cannot be set together with"},
		{external + "[target]\nrestart_limit = 0\n", "target.restart_limit: cannot be set together with"},
		{external + "[target]\nrestart_window = \"1h\"\n", "target.restart_window: cannot be set together with"},
		{external + "[target.ready]\nnotify = true\n", "target.ready.notify: cannot be set together with"},
		{external + "[target.reload]\nsignal = \"HUP\"\n", "target.reload.signal: cannot be set together with"},
		{external + "[target.reload]\nconfirm = \"notify\"\n", "target.reload.confirm: cannot be set together with"},
		{external + "[[target.socket]]\nlisten = \"tcp:127.0.0.1:80\"\n", "agent.toml:6: target.socket: cannot be set together with"},
		{base + "external = 3\n", "agent.toml:4: target.external: is a section"},
		// Sockets.
		{held, `agent.toml:4: target.socket: listen is ""; write "tcp:127.0.0.1:8080"`},
		{held + "listen = \"tcp:8080\"\n", `listen is "tcp:8080", which has no port`},
		{held + "listen = \"tcp::8080\"\n", `listen is "tcp::8080", which has no address; write "tcp:0.0.0.0:8080" or "tcp:[::]:8080"`},
		{held + "listen = \"tcp:::1:8080\"\n", `listen is "tcp:::1:8080"; an IPv6 address stands in brackets`},
		{held + "listen = \"tcp:127.0.0.1:http\"\n", "a port is a number from 1 to 65535"},
		{held + "listen = \"tcp:127.0.0.1:0\"\n", "a port is a number from 1 to 65535"},
		{held + "listen = \"tcp:127.0.0.1:65536\"\n", "a port is a number from 1 to 65535"},
		{held + "listen = \"unix:app.sock\"\n", `listen is "unix:app.sock"; a unix socket has an absolute path`},
		{held + "listen = \"unix:@app\"\n", "a unix socket has an absolute path"},
		{held + "listen = \"unix:/run/\"\n", `listen is "unix:/run/", a folder`},
		{held + "listen = \"unix:/a\\u0000b\"\n", "listen has a zero byte in it"},
		{held + "listen = \"unix:/" + strings.Repeat("a", 107) + "\"\n", "listen is a path of 108 bytes; that of a unix socket can have 107"},
		{held + "listen = \"tcp:[::1]:80\"\n[[target.socket]]\nlisten = \"tcp:[0::1]:80\"\n", `agent.toml:7: target.socket: listen is "tcp:[0::1]:80", and another socket listens there already`},
		{held + "listen = \"unix:/run/a\"\n[[target.socket]]\nlisten = \"unix:/run//a\"\n", "agent.toml:7: target.socket: listen is"},
		{held + "listen = \"unix:/a\"\nname = \"a:b\"\n", `name is "a:b"; it must be at most 255 characters of ASCII, and none of them a colon`},
		{held + "listen = \"unix:/a\"\nname = \"a\\nb\"\n", `name is "a\nb"; it must be`},
		{held + "listen = \"unix:/a\"\nname = \"é\"\n", "it must be at most 255 characters of ASCII"},
		{held + "listen = \"unix:/a\"\nname = \"" + strings.Repeat("n", 256) + "\"\n", "it must be at most 255 characters"},
		{held + "listen = \"unix:/a\"\nmode = \"0999\"\n", `mode "0999" is not octal digits`},
		{held + "listen = \"unix:/a\"\nmode = \"0555\"\n", `mode is "0555"; to connect to a unix socket takes the right to write`},
		{held + "listen = \"unix:/a\"\nuser = \"a:b\"\n", `user "a:b" is not the name of a user`},
		{held + "listen = \"unix:/a\"\ngroup = \"-g\"\n", `group "-g" is not the name of a group`},
		{held + "listen = \"tcp:127.0.0.1:80\"\nmode = \"0600\"\n", "mode, user and group are those of a unix socket's file"},
		{held + "listen = \"tcp:127.0.0.1:80\"\nuser = \"u\"\n", "mode, user and group are those"},
		{held + "listen = \"tcp:127.0.0.1:80\"\ngroup = \"g\"\n", "mode, user and group are those"},
		{held + "listen = \"unix:/srv/patch/a\"\n[patch]\ndir = \"/srv/patch\"\n", `agent.toml:5: target.socket: listen is "unix:/srv/patch/a", which is in patch.dir`},
		{held + "listen = \"unix:/srv//own/agent.sock\"\n[state]\ndir = \"/srv/own\"\n", "which is in state.dir"},
		{base + strings.Repeat("[[target.socket]]\nlisten = \"unix:/a\"\n", maxSockets+1), "target.socket: has 65 sockets; there can be 64"},
	} {
		_, err := loadText(t, c.text)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.120q: %v, want %q", c.text, err, c.says)
		}
	}
}

// What is wrong is told once, and with the line where it stands.
func TestServiceIsToldOnce(t *testing.T) {
	for text, want := range map[string]int{
		external + "output = 3\n":                                   1, // no such key there
		external + "[target]\noutput = 3\n":                         1,
		external + "[target]\ncommand = 3\n":                        1,
		"region = \"r\"\n[target]\nexternal = 3\n":                  1,
		base + "gate = 3\n":                                         1,
		base + "[target.gate]\nexec = 3\n":                          1,
		base + "[target.reload]\nsignal = 3\nconfirm = \"x\"\n":     2,
		held + "listen = 3\n":                                       1,
		held + "listen = \"x\"\nmode = 3\nuser = \"a:b\"\nno = 1\n": 4,
		held + "lsten = \"tcp:h:1\"\n":                              1,
		held + "listen = \"tcp:h:1\"\nmod = \"0600\"\n":             1,
		held + "listen = \"unix:/a\"\nmode = 600\n":                 1,
	} {
		_, err := loadText(t, text)
		if got := problems(t, err); len(got) != want {
			t.Errorf("%q: %v", text, err)
		} else if slices.ContainsFunc(got, func(p Problem) bool { return p.Line == 0 }) {
			t.Errorf("%q: a problem without a line: %v", text, err)
		}
	}
}

// Every key of a socket refuses a value of the wrong type, and a name that is almost one.
func TestSocketKeys(t *testing.T) {
	for _, f := range new(Socket).fields() {
		_, err := loadText(t, held+f.key+" = { a = 1 }\n")
		if err == nil || !strings.Contains(err.Error(), "agent.toml:5: target.socket: "+f.key+" is a section; it must be ") {
			t.Errorf("%s: %v", f.key, err)
		}
		for _, wrong := range []string{f.key + "s", strings.ToUpper(f.key)} {
			_, err = loadText(t, held+wrong+" = \"x\"\n")
			if want := "there is no key " + wrong + " in it; did you mean " + f.key + "?"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", wrong, err)
			}
		}
	}
}

func TestServiceLoaded(t *testing.T) {
	c, err := loadText(t, base+`
restart_delay = "10ms"
restart_max_delay = "10ms"
restart_limit = 0
restart_window = "5m"
watchdog = "100ms"
umask = "27"
nice = -20
rlimits = { nofile = 65536, core = "0:unlimited", memlock = "unlimited", cpu = "10:20", as = 9223372036854775807 }
[target.gate]
http = "unix:/run/app.sock:/patch"
retry = "1s"
max_wait = "1h"
[target.reload]
confirm = "notify"
[target.ready]
notify = true
[target.hooks]
before_stop = ["a"]
after_files = ["b", "x"]
after_start = ["c"]
after_rollback = ["d"]
timeout = "1m"
[[target.socket]]
listen = "tcp:[::1]:80"
name = "http"
[[target.socket]]
listen = "unix:/run/app.sock"
mode = "0600"
user = "u"
group = "g"
nonblocking = true
[[target.socket]]
listen = "unix:/`+strings.Repeat("a", 106)+`"
name = "http"
[[target.socket]]
listen = "unix:/run/narrow"
mode = "200"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Default().Target
	want.Root, want.Command, want.Env = filepath.Dir(c.Path), []string{"app"}, nil
	want.RestartDelay, want.RestartMaxDelay, want.RestartLimit, want.RestartWindow = minRestart, minRestart, 0, Duration(5*60e9)
	want.Watchdog, want.Umask, want.Nice = minWatchdog, Octal{true, 0o27}, new(-20)
	want.Rlimits = Rlimits{"nofile": {65536, 65536}, "core": {0, Unlimited}, "memlock": {Unlimited, Unlimited}, "cpu": {10, 20}, "as": {1<<63 - 1, 1<<63 - 1}}
	want.Gate = Gate{Set: true, HTTP: "unix:/run/app.sock:/patch", Retry: Duration(1e9), MaxWait: Duration(3600e9)}
	want.Reload.Confirm = ConfirmNotify
	want.Ready.Notify, want.Ready.Delay = true, 0
	want.Hooks = Hooks{[]string{"a"}, []string{"b", "x"}, []string{"c"}, []string{"d"}, Duration(60e9)}
	want.Sockets = []Socket{
		{Listen: "tcp:[::1]:80", Name: "http"},
		{Listen: "unix:/run/app.sock", Name: "unknown", Mode: Octal{true, 0o600}, User: "u", Group: "g", Nonblocking: true},
		{Listen: "unix:/" + strings.Repeat("a", 106), Name: "http", Mode: Octal{true, 0o666}},
		{Listen: "unix:/run/narrow", Name: "unknown", Mode: Octal{true, 0o200}},
	}
	if diff := cmp.Diff(want, c.Target); diff != "" {
		t.Error(diff)
	}
}

// A service of another manager's has what is not a process's own, and no default of one.
func TestExternalLoaded(t *testing.T) {
	c, err := loadText(t, external+`reload = ["again"]
timeout = "2m"
[target]
dir = "/srv"
user = "u"
env = { A = "1" }
output = ""
umask = ""
watchdog = "0s"
[target.gate]
exec = ["ask"]
[target.reload]
precheck = ["look"]
signal = ""
confirm = "none"
[target.ready]
notify = false
tcp = "h:1"
[target.health]
http = "http://h/"
[target.hooks]
after_start = ["c"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := External{Set: true, Start: []string{"up"}, Stop: []string{"down"}, Reload: []string{"again"}, Status: []string{"is-up"}, Timeout: Duration(120e9)}
	if diff := cmp.Diff(want, c.Target.External); diff != "" {
		t.Error(diff)
	}
	if c.Target.Command != nil || c.Target.Reload.Signal.Name != "" {
		t.Errorf("%+v", c.Target)
	}
	if c, err := loadText(t, external); err != nil || c.Target.Reload.Signal.Number != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

func TestLimitsReadBack(t *testing.T) {
	for _, l := range []Rlimit{{0, 0}, {1, 2}, {0, Unlimited}, {Unlimited, Unlimited}} {
		value := any(l.String())
		if l.Soft == l.Hard && l.Soft != Unlimited {
			value = int64(l.Soft)
		}
		if back, err := parseRlimit(value); err != nil || back != l {
			t.Errorf("%v is written %q and read %v, %v", l, l, back, err)
		}
	}
	for _, o := range []Octal{{}, {true, 0}, {true, 0o27}, {true, 0o777}} {
		var back Octal
		if err := back.UnmarshalText([]byte(o.String())); err != nil || back != o {
			t.Errorf("%v is written %q and read %v, %v", o, o, back, err)
		}
	}
}

// A service that passes from the agent to another manager, or back, does so with the
// agent's next start, and wholly.
func TestHandedOver(t *testing.T) {
	own, err := loadText(t, base+"nice = 3\n[target.reload]\nsignal = \"HUP\"\n[[target.socket]]\nlisten = \"unix:/a\"\n")
	if err != nil {
		t.Fatal(err)
	}
	other, err := parse(own.Path, []byte(external+"[target]\nprotect = [\"x\"]\n[patch]\nmode = \"manual\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ before, after *Config }{{own, other}, {other, own}} {
		soon, later := Changed(c.before, c.after)
		if diff := cmp.Diff([]string{"patch.mode"}, soon); diff != "" {
			t.Error(diff)
		}
		want := []string{"target.command", "target.nice", "target.protect", "target.reload.signal", "target.external.start", "target.external.stop", "target.external.status", "target.socket"}
		if diff := cmp.Diff(want, later); diff != "" {
			t.Error(diff)
		}
		next := *c.after
		next.KeepFixed(c.before)
		if diff := cmp.Diff(c.before.Target, next.Target); diff != "" {
			t.Error(diff)
		}
		if next.Patch.Mode != c.after.Patch.Mode {
			t.Error("nothing else is taken over, either")
		}
	}
}

// What a change of the service's keys needs to take effect.
func TestServiceChanged(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		c, err := parse("/etc/agent.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		before, after string
		soon, later   []string
	}{
		{base + "nice = 3\n", base + "nice = 3\n", nil, nil},
		{base, base + "nice = 0\n", []string{"target.nice"}, nil},
		{base + "rlimits = { core = 0 }\n", base + "[target.rlimits]\ncore = \"0:0\"\n", nil, nil},
		{base + "rlimits = { core = 0 }\n", base + "[target.rlimits]\ncore = 1\n", []string{"target.rlimits"}, nil},
		{base + "umask = \"22\"\n", base + "umask = \"0022\"\n", nil, nil},
		{held + "listen = \"unix:/a\"\n", held + "listen = \"unix:/a\"\nmode = \"0666\"\nname = \"unknown\"\n", nil, nil},
		{held + "listen = \"unix:/a\"\n", held + "listen = \"unix:/a\"\nnonblocking = true\n", nil, []string{"target.socket"}},
		{external, external + "reload = [\"x\"]\n", []string{"target.external.reload"}, nil},
	} {
		before, after := load(c.before), load(c.after)
		soon, later := Changed(before, after)
		if !slices.Equal(soon, c.soon) || !slices.Equal(later, c.later) {
			t.Errorf("%q to %q: %q, %q", c.before, c.after, soon, later)
		}
		after.KeepFixed(before)
		if _, later := Changed(before, after); later != nil {
			t.Errorf("%q to %q: %q is not kept", c.before, c.after, later)
		}
	}
}
