package main

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"patchagent/agent/config"
	"patchagent/agent/supervisor"
)

func configured(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What the file says about the process reaches who supervises it.
func TestProcessOptions(t *testing.T) {
	own := cmpopts.IgnoreUnexported(supervisor.Options{})
	const minimal = "region = \"r\"\n[target]\ncommand = [\"app\"]\n"
	// The fields that this test is about.
	mapped := func(cfg *config.Config) supervisor.Options {
		o := processOptions(cfg)
		return supervisor.Options{
			Command: o.Command, Env: o.Env, User: o.User, StopSignal: o.StopSignal, StopTimeout: o.StopTimeout, Restart: o.Restart, Backoff: o.Backoff,
			Output: o.Output, OutputMaxSize: o.OutputMaxSize, OutputMaxFiles: o.OutputMaxFiles, Sockets: o.Sockets, Limits: o.Limits, Watchdog: o.Watchdog,
			Ready: o.Ready, Reload: o.Reload, Precheck: o.Precheck, Health: o.Health,
		}
	}

	plain := supervisor.Options{
		Command: []string{"app"}, StopSignal: syscall.SIGTERM, StopTimeout: 10 * time.Second, Restart: supervisor.OnFailure,
		Backoff: supervisor.Backoff{First: 200 * time.Millisecond, Max: 30 * time.Second, Limit: 50, Window: time.Hour},
		Ready:   supervisor.Ready{Delay: 100 * time.Millisecond, Timeout: 30 * time.Second},
		Reload:  supervisor.Reload{Signal: syscall.SIGHUP, Timeout: 10 * time.Second},
		Health:  supervisor.Health{Interval: time.Second, Timeout: time.Second, Failures: 3, Window: 10 * time.Second},

		OutputMaxSize: 64 << 20, OutputMaxFiles: 5,
	}
	if diff := cmp.Diff(plain, mapped(configured(t, minimal)), own); diff != "" {
		t.Errorf("by default: %s", diff)
	}

	full := plain
	full.Env, full.User, full.Output = map[string]string{"A": "1"}, "u", "/var/log/app"
	full.StopSignal, full.StopTimeout, full.Restart = syscall.SIGQUIT, 3*time.Second, supervisor.Always
	full.Backoff = supervisor.Backoff{First: time.Second, Max: 2 * time.Second, Limit: -1, Window: 3 * time.Minute}
	full.Watchdog = 5 * time.Second
	full.Limits = supervisor.Limits{Umask: new(0), Nice: new(-3), Resources: []supervisor.Resource{
		{Name: "core", Soft: 0, Hard: config.Unlimited}, {Name: "nofile", Soft: 65536, Hard: 65536},
	}}
	full.Sockets = []supervisor.Socket{
		{Listen: "tcp:[::1]:80", Name: "http", Nonblocking: true},
		{Listen: "unix:/run/app", Name: "unknown", Mode: 0o640, User: "a", Group: "b"},
	}
	full.Ready = supervisor.Ready{Notify: true, Timeout: 4 * time.Second}
	full.Reload = supervisor.Reload{Exec: []string{"tell"}, Confirm: true, Timeout: 6 * time.Second}
	full.Precheck = []string{"look"}
	got := mapped(configured(t, minimal+`
env = { A = "1" }
user = "u"
output = "/var/log/app"
stop_signal = "QUIT"
stop_timeout = "3s"
restart = "always"
restart_delay = "1s"
restart_max_delay = "2s"
restart_limit = 0
restart_window = "3m"
watchdog = "5s"
umask = "0"
nice = -3
rlimits = { nofile = 65536, core = "0:unlimited" }
[target.ready]
notify = true
timeout = "4s"
[target.reload]
exec = ["tell"]
precheck = ["look"]
confirm = "notify"
timeout = "6s"
[[target.socket]]
listen = "tcp:[::1]:80"
name = "http"
nonblocking = true
[[target.socket]]
listen = "unix:/run/app"
mode = "0640"
user = "a"
group = "b"
`))
	if diff := cmp.Diff(full, got, own); diff != "" {
		t.Errorf("in full: %s", diff)
	}
}

// A unix socket that is held for the process is as safe from patches as what is the
// agent's own.
func TestHeldSocketIsGuarded(t *testing.T) {
	cfg := configured(t, "region = \"r\"\n[target]\ncommand = [\"app\"]\n[[target.socket]]\nlisten = \"unix:/srv/app/run/app.sock\"\n[[target.socket]]\nlisten = \"tcp:127.0.0.1:80\"\n")
	without := *cfg
	without.Target.Sockets = nil
	more := slices.DeleteFunc(guarded(cfg).Own, func(path string) bool { return slices.Contains(guarded(&without).Own, path) })
	if diff := cmp.Diff([]string{"/srv/app/run/app.sock"}, more); diff != "" {
		t.Error(diff)
	}
}

// asked is a managed of which only is asked what the test is about.
type asked struct {
	managed
	status  supervisor.Status
	resumed bool
}

func (a *asked) Status() supervisor.Status { return a.status }
func (a *asked) Resume()                   { a.resumed = true }

// A service of another manager is kept up whatever it seems to do: its stop may have
// failed, and yet end it.
func TestKeepUp(t *testing.T) {
	for _, c := range []struct {
		status supervisor.Status
		failed bool
		want   bool
	}{
		{supervisor.Status{State: supervisor.Stopped}, false, true},
		{supervisor.Status{State: supervisor.Running}, false, false},
		{supervisor.Status{State: supervisor.Failed}, false, false},
		{supervisor.Status{State: supervisor.Running, External: true}, false, true},
		{supervisor.Status{State: supervisor.Stopped, External: true}, true, false}, // what would it stand on?
	} {
		m := &asked{status: c.status}
		a := &agent{process: process{managed: m}, failed: c.failed}
		if a.keepUp(); m.resumed != c.want {
			t.Errorf("%+v, failed %v: resumed %v", c.status, c.failed, m.resumed)
		}
	}
}

// A service of another manager has a pid that the agent does not know, and nothing is
// said of it before something is known.
func TestProcessText(t *testing.T) {
	then := time.Unix(1, 0)
	for _, c := range []struct {
		status supervisor.Status
		want   string
	}{
		{supervisor.Status{State: supervisor.Running, PID: 7, Since: then}, "running, pid 7, since then, restarts: 0"},
		{supervisor.Status{State: supervisor.Stopped}, "stopped, no pid"},
		{supervisor.Status{State: supervisor.Ended, External: true}, "a service of another manager, whose status command has given no answer yet"},
		{supervisor.Status{State: supervisor.Ended, Since: then, External: true}, "ended, a service of another manager, seen so since then"},
		{supervisor.Status{State: supervisor.Waiting, Since: then, Restarts: 3, External: true}, "back-off, a service of another manager, seen so since then, attempts to start it: 3"},
	} {
		if got := processText(c.status, func(time.Time) string { return "then" }); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
