//go:build linux

package supervisor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// manager is one that keeps its service by files: it is active while "active" is there.
// A verb does what is in the file of its name, if there is one, instead of what it
// usually does; "verbs" has those that ran.
type manager struct {
	t    *testing.T
	dir  string
	opts Options
	x    *External
	end  func() error

	pause time.Duration
}

func newManager(t *testing.T) *manager {
	m := &manager{t: t, dir: t.TempDir()}
	verb := func(name, usual string) []string {
		return []string{"sh", "-c", "echo " + name + " $PATCHAGENT_EVENT >>verbs; test -e " + name + " || exec " + usual + "; . ./" + name}
	}
	m.opts = Options{
		Dir: m.dir, StateFile: filepath.Join(m.dir, "state"),
		Ready: Ready{Timeout: 2 * time.Minute},
		Verbs: Verbs{
			Start: verb("start", "touch active"), Stop: verb("stop", "rm -f active"), Reload: verb("reload", "true"),
			Status: []string{"sh", "-c", "test -e status || exec test -e active; . ./status"}, Timeout: 2 * time.Minute,
		},
		Health: Health{Interval: time.Millisecond, Timeout: 2 * time.Minute, Failures: 3, Window: time.Nanosecond},
	}
	return m
}

// run has the manager's service looked after; up says how it is found.
func (m *manager) run(up bool) *External {
	m.t.Helper()
	m.begin(up)
	if m.x.Up() != up {
		m.t.Fatalf("%+v", m.x.Status())
	}
	return m.x
}

func (m *manager) begin(up bool) {
	m.t.Helper()
	if m.pause == 0 {
		m.pause = 5 * time.Millisecond
	}
	if up {
		m.put("active", "")
	}
	m.x = NewExternal(m.opts, hclog.New(&hclog.LoggerOptions{Output: m.t.Output(), Level: hclog.Debug}))
	m.x.pause = m.pause
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.x.Run(ctx) }()
	m.end = func() error { cancel(); err := <-ended; ended <- err; return err }
	m.t.Cleanup(func() { _ = m.end() })
	if err := m.x.Adopt(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// put writes a file, whole.
func (m *manager) put(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o644), os.Rename(path+".new", path)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *manager) remove(name string) { _ = os.Remove(filepath.Join(m.dir, name)) }

func (m *manager) active() bool {
	_, err := os.Stat(filepath.Join(m.dir, "active"))
	return err == nil
}

func (m *manager) verbs() []string {
	data, _ := os.ReadFile(filepath.Join(m.dir, "verbs"))
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}

func (m *manager) wantVerbs(want ...string) {
	m.t.Helper()
	if got := m.verbs(); !slices.Equal(got, want) {
		m.t.Errorf("verbs %q, want %q", got, want)
	}
}

func TestExternal(t *testing.T) {
	m := newManager(t)
	m.opts.Precheck = []string{"sh", "-c", "echo precheck $PATCHAGENT_EVENT >>verbs"}
	m.opts.Hooks = Hooks{Commands: map[string][]string{"some": {"sh", "-c", "echo hook $PATCHAGENT_EVENT >>verbs"}}}
	x := m.run(true)
	event := func(name string) []string { return []string{"PATCHAGENT_EVENT=" + name} }
	if err := x.Stop(t.Context(), event("s")); err != nil || x.Status().State != Stopped || m.active() {
		t.Errorf("stop: %v, %+v", err, x.Status())
	}
	if err := x.Stop(t.Context(), event("again")); err != nil { // once is enough
		t.Error(err)
	}
	if err := x.Start(t.Context(), event("st")); err != nil || !x.Up() || !m.active() {
		t.Errorf("start: %v, %+v", err, x.Status())
	}
	if err := x.Reload(t.Context(), event("r")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(x.Precheck(t.Context(), event("p")), x.Hook(t.Context(), "some", event("h"))); err != nil {
		t.Error(err)
	}
	if err := errors.Join(x.Sick(t.Context()), x.Watch(t.Context(), nil, false)); err != nil {
		t.Error(err)
	}
	x.Release()
	if err := m.end(); err != nil || !m.active() {
		t.Errorf("its end: %v", err)
	}
	m.wantVerbs("stop s", "start st", "reload r", "precheck p", "hook h")
}

// What is not asked for is left as it is, and what others do with the service is seen.
func TestExternalIsFollowed(t *testing.T) {
	m := newManager(t)
	x := m.run(false)
	x.Resume()
	if s := x.Status(); s.State != Ended || s.PID != 0 {
		t.Errorf("%+v", s)
	}
	m.put("active", "")
	eventually(t, "it to be seen", x.Up)
	m.put("status", "exit 4") // any status but 0
	eventually(t, "its end to be seen", func() bool { return x.Status().State == Ended })
	m.put("status", "exit 0")
	eventually(t, "it to be seen again", x.Up)
	if len(x.Changed()) != 1 {
		t.Error("no change was told")
	}
	m.put("status", "exit 127") // no answer at all
	if err := x.Hold(t.Context()); err != nil || !x.Up() {
		t.Errorf("without an answer: %v, %+v", err, x.Status())
	}
	if err := m.end(); err != nil || !m.active() {
		t.Error(err)
	}
	m.wantVerbs()
}

func TestExternalStart(t *testing.T) {
	probe := Probe{Exec: []string{"test", "-e", "ready"}}
	for _, c := range []struct {
		name   string
		start  string // what the start command does
		status string
		ready  Ready
		want   error
		says   string
		verbs  []string
	}{
		{"goes well", "touch active ready", "", Ready{Probe: probe, Timeout: 2 * time.Minute}, nil, "", []string{"start"}},
		{"after a delay", "touch active", "", Ready{Delay: 20 * time.Millisecond, Timeout: 2 * time.Minute}, nil, "", []string{"start"}},
		{"the command fails", "echo no such unit; exit 5", "", Ready{Timeout: 2 * time.Minute}, ErrStartFailed, "no such unit", []string{"start", "stop"}},
		{"it is never active", "true", "", Ready{Timeout: 2 * time.Minute}, ErrStartFailed, "not active", []string{"start", "stop"}},
		{"the status command is wrong", "touch active", "echo what?; echo usage: app; echo; exit 64", Ready{Timeout: 2 * time.Minute}, ErrStartFailed,
			`not active (exit status 64; it printed: "usage: app")`, []string{"start", "stop"}},
		{"it is active and ends", "touch active brief", "test -e active || exit 3; test ! -e brief || rm active", Ready{Probe: probe, Timeout: 2 * time.Minute},
			ErrStartFailed, "not active", []string{"start", "stop"}},
		{"it is not ready", "touch active", "", Ready{Probe: probe, Timeout: time.Second}, ErrNotReady, "test: exit status 1", []string{"start", "stop"}},
		{"its manager was faster", "touch active ready", "", Ready{Probe: probe, Timeout: 2 * time.Minute}, nil, "", []string{"stop", "start"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var m *manager
			var x *External
			var err error
			patiently(t, c.ready.Timeout, func(limit time.Duration) bool {
				m = newManager(t)
				m.put("start", c.start)
				if c.status != "" {
					m.put("status", c.status)
				}
				m.opts.Ready = c.ready
				m.opts.Ready.Timeout = limit
				x = m.run(false)
				if c.verbs[0] == "stop" {
					m.put("active", "")
				}
				err = x.Start(t.Context(), nil)
				return c.want != ErrNotReady || err != nil && strings.Contains(err.Error(), c.says)
			})
			if c.want == nil && err != nil || !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if up := err == nil; x.Up() != up || m.active() != up {
				t.Errorf("%+v, active %v", x.Status(), m.active())
			}
			if c.says == "no such unit" && x.Tail() != c.says {
				t.Errorf("it said %q", x.Tail())
			}
			m.wantVerbs(c.verbs...)
		})
	}
}

// A service counts as stopped only if its status command says so.
func TestExternalStop(t *testing.T) {
	for _, c := range []struct {
		name   string
		stop   string
		status string
		want   bool
		says   string
	}{
		{"the command fails, and it is stopped", "rm active; exit 1", "", true, ""},
		{"it ends a moment later", "touch leaving", "test ! -e leaving || { rm leaving active; exit 0; }; test -e active", true, ""},
		{"the command fails", "echo not mine; exit 1", "", false, "not mine"},
		{"it stays", "true", "echo busy", false, `says that it is active (exit status 0; it printed: "busy"), `},
		{"nobody knows", "rm active", "exit 127", false, "exit status 127"},
		{"the status command is killed", "rm active", "kill -KILL $$", false, "killed"},
		{"the status command hangs", "rm active", "exec sleep 1000", false, "took longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limit := 2 * time.Minute
			if !c.want && c.stop != "echo not mine; exit 1" {
				limit = 2 * time.Second // all of it is waited for
			}
			var x *External
			var err error
			patiently(t, limit, func(limit time.Duration) bool {
				m := newManager(t)
				m.put("stop", c.stop)
				x = m.run(true)
				if c.status != "" {
					m.put("status", c.status)
				}
				m.opts.Verbs.Timeout = limit
				x.Configure(m.opts)
				err = x.Stop(t.Context(), nil)
				return c.want || err != nil && strings.Contains(err.Error(), c.says)
			})
			if c.want != (err == nil) || err != nil && (!errors.Is(err, ErrStopFailed) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v", err)
			}
			if x.Up() == c.want {
				t.Errorf("%+v", x.Status())
			}
		})
	}
}

// What was stopped here and could not be started again is started again and again; what
// was not is its manager's.
func TestExternalResume(t *testing.T) {
	m := newManager(t)
	m.put("start", "exit 1")
	m.pause = 200 * time.Millisecond // so that mostStarts are far away
	x := m.run(true)
	if err := x.Stop(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) || x.Status().State != Stopped {
		t.Fatalf("%v, %+v", err, x.Status())
	}
	x.Resume()
	eventually(t, "more attempts", func() bool { return len(m.verbs()) > 3 && x.Status().State == Waiting })
	m.put("start", "touch active")
	eventually(t, "a start", x.Up)

	m.remove("active")
	eventually(t, "its end to be seen", func() bool { return x.Status().State == Ended })
	before := len(m.verbs())
	x.Resume()
	if err := x.Hold(t.Context()); err != nil || len(m.verbs()) != before {
		t.Errorf("%v, %q", err, m.verbs()[before:])
	}

	// What did not come up when somebody has asked for it is tried again, too.
	m.put("start", "exit 1")
	if err := errors.Join(x.Stop(t.Context(), nil), x.Start(t.Context(), nil)); !errors.Is(err, ErrStartFailed) {
		t.Fatal(err)
	}
	if again := x.Retry(); !again {
		t.Errorf("%+v", x.Status())
	}
	eventually(t, "the next attempt to be planned", func() bool { return x.Status().State == Waiting })
	m.put("start", "touch active")
	eventually(t, "a start after a retry", x.Up)

	// An operator is faster: it is not stopped again for that.
	m.put("start", "exit 1")
	m.put("active", "")
	if err := errors.Join(x.Hold(t.Context()), x.Stop(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) {
		t.Fatal(err)
	}
	before = len(m.verbs())
	m.put("active", "")
	x.Resume()
	eventually(t, "it to be seen", x.Up)
	if len(m.verbs()) != before || !m.active() {
		t.Errorf("%q", m.verbs()[before:])
	}
}

// What an earlier agent has stopped is the next one's to start: at once if nothing else
// is to be done, and again if somebody else has started it in the middle of that.
func TestExternalOfAnEarlierAgent(t *testing.T) {
	for _, c := range []struct {
		name   string
		active bool // by others, in between
		patch  bool // there is one to go on with
		verbs  []string
	}{
		{"down", false, false, []string{"stop", "start"}},
		{"down, and a patch to go on with", false, true, []string{"stop", "start"}},
		{"started by others", true, false, []string{"stop"}},
		{"started by others, and a patch to go on with", true, true, []string{"stop", "stop", "start"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			if err := m.run(true).Stop(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if err := m.end(); err != nil {
				t.Fatal(err)
			}
			m.begin(c.active)
			if s := m.x.Status(); s.State != Stopped {
				t.Errorf("%+v", s)
			}
			if c.patch {
				if err := m.x.Start(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
			m.x.Resume()
			eventually(t, "it to be up", m.x.Up)
			m.wantVerbs(c.verbs...)
			if err := m.end(); err != nil {
				t.Fatal(err)
			}
			m.run(true)
			m.wantVerbs(c.verbs...)
		})
	}
}

func TestExternalReload(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Method }))
	t.Cleanup(server.Close)
	for _, c := range []struct {
		name   string
		up     bool
		reload string
		own    Reload
		none   bool
		want   error
		state  State
		verbs  []string
	}{
		{"by its verb", true, "true", Reload{}, false, nil, Running, []string{"reload"}},
		{"by http", true, "true", Reload{HTTP: server.URL, Timeout: 2 * time.Minute}, false, nil, Running, nil},
		{"by another command", true, "true", Reload{Exec: []string{"sh", "-c", "echo told >>verbs"}, Timeout: 2 * time.Minute}, false, nil, Running, []string{"told"}},
		{"not at all", true, "true", Reload{}, true, nil, Running, nil},
		{"the command fails", true, "exit 1", Reload{}, false, ErrReloadFailed, Running, []string{"reload"}},
		{"it ends", true, "rm active", Reload{}, false, ErrReloadFailed, Ended, []string{"reload"}},
		{"it ends, and the command says so", true, "rm active; exit 1", Reload{}, false, ErrReloadFailed, Ended, []string{"reload"}},
		{"it is down", false, "true", Reload{}, false, ErrNotRunning, Ended, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newManager(t)
			m.put("reload", c.reload)
			m.opts.Reload = c.own
			if c.none {
				m.opts.Verbs.Reload = nil
			}
			x := m.run(c.up)
			err := x.Reload(t.Context(), nil)
			if c.want == nil && err != nil || !errors.Is(err, c.want) || x.Status().State != c.state {
				t.Errorf("%v, %+v", err, x.Status())
			}
			m.wantVerbs(c.verbs...)
			if c.own.HTTP != "" && <-asked != http.MethodPost {
				t.Error("not asked by POST")
			}
		})
	}
}

func TestExternalHealth(t *testing.T) {
	for name, c := range map[string]struct {
		probe  string
		status string
		sick   bool // before
		want   string
	}{
		"well":                  {"true", "exit 0", false, ""},
		"never well":            {"echo ouch; false", "exit 0", false, "3 health checks in a row failed.*ouch"},
		"ended":                 {"true", "exit 3", false, "not active"},
		"ended, sick before":    {"true", "exit 3", true, "not active"},
		"sick before and still": {"false", "exit 0", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.opts.Health.Exec = []string{"sh", "-c", c.probe}
			x := m.run(true)
			m.put("status", c.status)
			err := x.Watch(t.Context(), nil, c.sick)
			if (c.want == "") != (err == nil) || err != nil && !errors.Is(err, ErrUnhealthy) {
				t.Errorf("%v", err)
			}
			if err := x.Sick(t.Context()); (err != nil) != (c.want != "" || c.sick) {
				t.Errorf("sick: %v", err)
			}
		})
	}
}

// The end of ctx ends the wait for the service, which is left as it is.
func TestExternalIsNotWaitedFor(t *testing.T) {
	m := newManager(t)
	m.opts.Ready.Exec = []string{"false"}
	x := m.run(false)
	ctx, cancel := context.WithCancelCause(t.Context())
	end := errors.New("that is enough")
	started := make(chan error, 1)
	go func() { started <- x.Start(ctx, nil) }()
	eventually(t, "the start", m.active)
	cancel(end)
	if err := <-started; !errors.Is(err, end) || !m.active() {
		t.Errorf("%v", err)
	}
	m.wantVerbs("start")
}
