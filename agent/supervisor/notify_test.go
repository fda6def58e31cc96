//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"patchagent/agent/sdnotify"
)

func TestNotifyReady(t *testing.T) {
	st := newSpeaker(t, "STATUS=loading \x1b[1m")
	s := st.run()
	started := make(chan error, 1)
	go func() { started <- s.Start(t.Context(), nil) }()
	eventually(t, "its state", func() bool { return s.Status().Text == "loading \uFFFD[1m" })
	// Somebody else says that it is ready.
	t.Setenv("NOTIFY_SOCKET", s.notify.Path())
	if err := notify("READY=1", nil); err != nil {
		t.Fatal(err)
	}
	if s.heard.isReady() || s.Status().State != Starting {
		t.Fatalf("%+v", s.Status())
	}
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	st.tell("child READY=1;STATUS=") // its child is as good as itself
	if err := <-started; err != nil || s.Status().State != Running || s.Status().Text != "" {
		t.Errorf("%v, %+v", err, s.Status())
	}
	eventually(t, "the record", func() bool { return readState(t, st).Ready })
	path := s.notify.Path()
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestNotifyNeverReady(t *testing.T) {
	st := newSpeaker(t, "STATUS=x")
	st.opts.Ready.Timeout = 100 * time.Millisecond
	if err := st.run().Start(t.Context(), nil); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "READY=1") {
		t.Errorf("%v", err)
	}
}

// A process whose socket cannot be made is not started if it has to say something.
func TestNotifyCannotListen(t *testing.T) {
	for key, c := range map[string]struct {
		change func(o *Options)
		want   error
	}{
		"target.ready.notify":   {func(o *Options) { o.Ready = Ready{Notify: true} }, ErrStartFailed},
		"target.reload.confirm": {func(o *Options) { o.Reload.Confirm = true }, ErrStartFailed},
		"target.watchdog":       {func(o *Options) { o.Watchdog = time.Second }, ErrStartFailed},
		"":                      {func(*Options) {}, nil},
	} {
		t.Run(key, func(t *testing.T) {
			st := newStage(t, "plain")
			st.opts.StateFile = ""
			c.change(&st.opts)
			if err := st.run().Start(t.Context(), nil); !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), key+" is set") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReloadConfirmed(t *testing.T) {
	for name, c := range map[string]struct {
		hangup string
		says   string // ""; it is confirmed
	}{
		"with its time":           {"RELOADING=1;MONOTONIC_USEC=NOW|STATUS=x|READY=1", ""},
		"without":                 {"RELOADING=1|READY=1", ""},
		"ready is repeated first": {"READY=1|RELOADING=1|READY=1", ""},
		"it ends":                 {"RELOADING=1|exit", "exit status 0"},
		"ready alone":             {"READY=1;STATUS=again", "confirm"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, "READY=1")
			st.opts.Env["HANGUP"] = c.hangup
			if c.says == "confirm" {
				st.opts.Reload.Timeout = 100 * time.Millisecond
			}
			s := st.start()
			eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
			err := s.Reload(t.Context(), nil)
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrReloadFailed) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// heardOf is a supervisor that listens to this test, in place of a process.
func heardOf(t *testing.T, opts Options) (*Supervisor, func(words string)) {
	t.Helper()
	s := New(opts, nil)
	r, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	s.child = &child{pid: r.PID, fd: fd, started: time.Now(), record: r, done: make(chan struct{})}
	s.heard.begin(s.child, false, opts.Watchdog)
	return s, func(words string) {
		for text := range strings.SplitSeq(words, "|") {
			m, err := sdnotify.Parse([]byte(strings.ReplaceAll(text, ";", "\n")))
			if err != nil {
				t.Fatal(err)
			}
			s.heard.mu.Lock()
			s.heard.note(&sdnotify.Received{Message: m, At: time.Now()})
			s.heard.mu.Unlock()
		}
	}
}

func TestNotConfirmed(t *testing.T) {
	for name, c := range map[string]struct{ before, after, says string }{
		"nothing":               {"", "STATUS=x", "did not confirm"},
		"ready alone":           {"", "READY=1", "READY=1 without RELOADING=1"},
		"both in one":           {"", "RELOADING=1;READY=1", "READY=1 without RELOADING=1"},
		"reloading alone":       {"", "READY=1|RELOADING=1", "but not READY=1"},
		"ready, then reloading": {"", "RELOADING=1|READY=1|RELOADING=1", "but not READY=1"},
		"an earlier reload":     {"", "RELOADING=1;MONOTONIC_USEC=5|READY=1", "READY=1 without RELOADING=1"},
		"begun before":          {"RELOADING=1", "READY=1", "READY=1 without RELOADING=1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, says := heardOf(t, Options{})
			s.heard.up()
			if c.before != "" {
				says(c.before)
			}
			s.heard.tell(sdnotify.Now())
			says(c.after)
			if err := s.confirmed(t.Context(), s.child, time.Now()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// More time is given for the phase in which it was asked for, and for no other.
func TestExtendTimeout(t *testing.T) {
	s, says := heardOf(t, Options{Ready: Ready{Notify: true, Timeout: time.Millisecond}})
	past := time.Now().Add(-time.Minute)
	says("EXTEND_TIMEOUT_USEC=60000000")
	says("EXTEND_TIMEOUT_USEC=1") // it is not shortened
	if left := s.left(startPhase, past); left <= 0 || left > time.Minute {
		t.Errorf("of the start: %s", left)
	}
	ready := make(chan error, 1)
	go func() { ready <- s.waitReady(t.Context(), nil) }()
	time.AfterFunc(20*time.Millisecond, func() { says("READY=1") })
	if err := <-ready; err != nil {
		t.Error(err)
	}
	s.heard.up()
	says("EXTEND_TIMEOUT_USEC=60000000") // nothing has a limit now
	for _, p := range []phase{tellPhase, stopPhase} {
		s.heard.enter(p)
		if left := s.left(p, past); left > 0 {
			t.Errorf("of the %s: %s, before it was asked for", p, left)
		}
		says("EXTEND_TIMEOUT_USEC=18446744073709551615")
		if left := s.left(p, past); left < maxExtend-time.Minute || left > maxExtend {
			t.Errorf("of the %s: %s", p, left)
		}
	}
	says("STOPPING=1") // which was known
	if left := s.left(stopPhase, past); left <= 0 {
		t.Error("what was asked for is forgotten")
	}
	if s, says := heardOf(t, Options{}); true {
		says("EXTEND_TIMEOUT_USEC=60000000|STOPPING=1")
		if left := s.left(stopPhase, past); left > 0 {
			t.Errorf("what was asked for the start counts for the stop: %s", left)
		}
	}
}

// A process that says that it stops, and does, is started again by the policy.
func TestStoppingBySelf(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		want   State
	}{{Always, Running}, {OnFailure, Ended}} {
		t.Run(string(c.policy), func(t *testing.T) {
			st := newSpeaker(t, "READY=1")
			st.opts.Restart = c.policy
			s := st.start()
			pid := s.Status().PID
			eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
			st.tell("STOPPING=1;STATUS=bye")
			eventually(t, "its state", func() bool { return s.Status().State == Stopping && s.Status().PID == pid })
			if err := signalTo(pid, syscall.SIGTERM); err != nil { // it ends with status 0
				t.Fatal(err)
			}
			eventually(t, string(c.want), func() bool { return s.Status().State == c.want && s.Status().PID != pid })
			if text := s.Status().Text; c.want == Ended && text != "bye" {
				t.Errorf("%q", text)
			}
		})
	}
}

// The next agent listens where the process speaks, and knows what it has said.
func TestAdoptListens(t *testing.T) {
	st := newSpeaker(t, "READY=1;WATCHDOG_USEC=3600000000")
	cmd := agentOf(t, st, "supervisor", "SAY="+st.opts.Env["SAY"])
	eventually(t, "its process on record", func() bool {
		r, err := readRecord(st.opts.StateFile)
		return err == nil && r.Ready && r.Watchdog == time.Hour && strings.Count(st.said(), "up\n") == 2
	})
	left := readState(t, st).PID
	t.Cleanup(func() { _ = signalTo(left, syscall.SIGKILL) })
	kill(t, cmd)

	st.opts.Ready.Timeout = time.Hour
	s := st.adopt()
	if s.Status().State != Running || s.Status().PID != left || !s.heard.isReady() {
		t.Errorf("left %d, now %+v", left, s.Status())
	}
	if due, _ := s.heard.alarm(time.Minute); time.Until(due) < time.Minute {
		t.Errorf("the watchdog bites in %s", time.Until(due))
	}
	st.tell("STATUS=still here")
	if s.Status().Text != "still here" {
		t.Errorf("%+v", s.Status())
	}
	// An agent that leaves it to the next one leaves the socket, too.
	s.Release()
	<-s.ended
	if _, err := os.Lstat(s.notify.Path()); err != nil {
		t.Error(err)
	}
	if err := st.end(); err != nil {
		t.Error(err)
	}
	s = st.adopt()
	st.tell("STATUS=again")
	if s.Status().Text != "again" {
		t.Errorf("%+v", s.Status())
	}
	if err := st.end(); err != nil || alive(left) {
		t.Errorf("after the end: %v", err)
	}
}

// Debian's systemd-notify is a process of its own that speaks for its parent, and
// waits until it is heard.
func TestSystemdNotify(t *testing.T) {
	if _, err := exec.LookPath("systemd-notify"); err != nil {
		t.Skip("systemd-notify is not installed")
	}
	for _, user := range []string{"", "nobody"} {
		t.Run("user "+user, func(t *testing.T) {
			if user != "" && os.Getuid() != 0 {
				t.Skip("only root can run a process as somebody else")
			}
			st := newStage(t, "")
			st.opts.Dir, st.opts.User = "/", user
			st.opts.Command = []string{"sh", "-c", "systemd-notify --ready --status='all is well' && exec sleep 1000"}
			st.opts.Ready = Ready{Notify: true, Timeout: 2 * time.Minute}
			s := st.start()
			if s.Status().State != Running || s.Status().Text != "all is well" {
				t.Errorf("%+v", s.Status())
			}
		})
	}
}

func TestSocketPlaces(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("x", sdnotify.MaxPath))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	places := func(folder, user string, uid int) (paths []string) {
		t.Helper()
		list, err := socketPlaces(Options{StateFile: filepath.Join(folder, "state"), User: user}, uid)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			paths = append(paths, filepath.Join(p.dir, p.name))
		}
		return paths
	}
	if got := places(dir, "", 1000); len(got) != 2 || got[0] != filepath.Join(dir, "notify.sock") || !strings.HasPrefix(got[1], "/tmp/patchagent-1000/") || len(got[1]) > sdnotify.MaxPath {
		t.Error(got)
	}
	root := places(dir, "nobody", 0)
	if len(root) != 1 || !strings.HasPrefix(root[0], runFolder+"/") || root[0] != places(dir, "nobody", 0)[0] || root[0] == places(long, "nobody", 0)[0] {
		t.Error(root)
	}
	if got := places(dir, "", 0); len(got) != 2 || got[0] != root[0] {
		t.Error(got)
	}
	// Each of the folders works, or says why not.
	own := place{dir: filepath.Join(dir, "own"), name: "s", own: true, dirMode: 0o700, mode: 0o600}
	for name, spoil := range map[string]func() error{
		"new":                 func() error { return nil },
		"there":               func() error { return os.Mkdir(own.dir, 0o700) },
		"others can write it": func() error { return errors.Join(os.Mkdir(own.dir, 0o777), os.Chmod(own.dir, 0o777)) },
		"a link":              func() error { return os.Symlink(dir, own.dir) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		l, err := own.listen()
		if bad := name != "new" && name != "there"; bad != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = l.Close()
		}
		if err := os.Remove(own.dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (place{dir: long, name: "notify.sock", mode: 0o600}).listen(); err == nil {
		t.Error("the path is not too long")
	}
}

// What a stranger says is neither heard nor does it keep the process from speaking.
func TestStrangersAreNotHeard(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	s := st.start()
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	t.Setenv("NOTIFY_SOCKET", s.notify.Path())
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, text := range []string{"STATUS=mine", "WATCHDOG=trigger", "STOPPING=1", fmt.Sprintf("MAINPID=%d", os.Getpid()), "FDSTORE=1"} {
		if err := notify(text, f); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := s.stored()
	if status := s.Status(); status.State != Running || status.Text != "" || len(files) != 0 || s.heard.candidate(s.child) != nil {
		t.Errorf("%+v, %d files", status, len(files))
	}
	st.tell("STATUS=its own")
	if s.Status().Text != "its own" {
		t.Errorf("%+v", s.Status())
	}
}
