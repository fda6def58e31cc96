//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"patchagent/agent/sdnotify"
)

// speak is a process that says things to NOTIFY_SOCKET: at once what is in SAY, at a
// hangup what is in HANGUP, and at SIGUSR1 what is in the file "words". There | is
// between messages and ; between lines; NOW is CLOCK_MONOTONIC. "exit" ends it, "keep
// NAME" gives a listener at ADDR away to be kept, "child TEXT" has a child say it, and
// "pass TEXT" makes a child the main process, says that, and ends without waiting.
func speak(say func(...any)) {
	told := make(chan os.Signal, 8)
	signal.Notify(told, syscall.SIGUSR1, syscall.SIGHUP)
	utter := func(text string) {
		for word := range strings.SplitSeq(text, "|") {
			word = strings.ReplaceAll(word, "NOW", fmt.Sprint(sdnotify.Now().Microseconds()))
			name, rest, _ := strings.Cut(word, " ")
			var err error
			switch name {
			case "":
			case "exit":
				os.Exit(0)
			case "keep":
				err = giveAway(rest)
			case "pass":
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "SAY=", "HANGUP=RELOADING=1|READY=1")
				if err = cmd.Start(); err == nil {
					err = sayTo(fmt.Sprintf("MAINPID=%d\n%s", cmd.Process.Pid, strings.ReplaceAll(rest, ";", "\n")), nil)
				}
				if err == nil {
					os.Exit(0)
				}
			case "child":
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "ROLE=sayer", "SAY="+rest)
				err = cmd.Run()
			default:
				err = notify(strings.ReplaceAll(word, ";", "\n"), nil)
			}
			if err != nil {
				say("cannot say", word, err)
				os.Exit(4)
			}
		}
	}
	utter(os.Getenv("SAY"))
	go func() {
		for sig := range told {
			text := os.Getenv("HANGUP")
			if sig == syscall.SIGUSR1 {
				data, _ := os.ReadFile("words")
				text = string(data)
			}
			utter(text)
			say("said", text)
		}
	}()
}

// notify sends, and returns when the manager has handled it.
func notify(text string, f *os.File) error {
	if err := sayTo(text, f); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = sayTo("BARRIER=1", w)
	_ = w.Close()
	if err == nil {
		_, _ = r.Read(make([]byte, 1))
	}
	return err
}

func sayTo(text string, f *os.File) error {
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	return unix.Sendmsg(conn, []byte(text), rights, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}

func giveAway(name string) error {
	l, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if err := notify("FDSTORE=1\nFDNAME="+name, f); err != nil {
		return err
	}
	return notify("FDSTORE=1\nFDNAME="+name, f) // the same again
}

// newSpeaker is a stage for a process that says it when it is ready.
func newSpeaker(t *testing.T, say string) *stage {
	t.Helper()
	st := newStage(t, "speaker")
	st.opts.Env["SAY"] = say
	st.opts.Ready = Ready{Notify: true, Timeout: 20 * time.Second}
	st.opts.Reload = Reload{Signal: syscall.SIGHUP, Confirm: true, Timeout: 20 * time.Second}
	return st
}

// tell has the running process say something.
func (st *stage) tell(text string) {
	st.t.Helper()
	before := strings.Count(st.said(), "said")
	if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte(text), 0o600); err != nil {
		st.t.Fatal(err)
	}
	if err := signalTo(st.s.Status().PID, syscall.SIGUSR1); err != nil {
		st.t.Fatal(err)
	}
	eventually(st.t, "its words", func() bool { return strings.Count(st.said(), "said") > before })
}

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
	s.child = &child{pid: r.PID, started: time.Now(), record: r, done: make(chan struct{})}
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

// When the watchdog bites, by what was said and when.
func TestAlarm(t *testing.T) {
	const every, stop = time.Hour, time.Minute
	soon := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for name, c := range map[string]struct {
		up    bool
		says  string
		after time.Duration // 0: never
		why   string
	}{
		"not up":          {false, "WATCHDOG=1", 0, ""},
		"up":              {true, "", every, "no sign of life"},
		"a sign":          {true, "WATCHDOG=1", every, "no sign of life"},
		"another time":    {true, "WATCHDOG_USEC=60000000", time.Minute, "for 1m0s"},
		"no watchdog":     {true, "WATCHDOG_USEC=0", 0, ""},
		"it calls":        {true, "WATCHDOG=trigger", time.Nanosecond, "WATCHDOG=trigger"},
		"stopping":        {true, "STOPPING=1|WATCHDOG=trigger", stop, "STOPPING=1"},
		"slowly stopping": {true, "STOPPING=1;EXTEND_TIMEOUT_USEC=600000000", 10 * time.Minute, "STOPPING=1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, says := heardOf(t, Options{Watchdog: every})
			before := soon(c.after)
			if c.up {
				s.heard.up()
			}
			if c.says != "" {
				says(c.says)
			}
			due, why := s.heard.alarm(stop)
			if c.after == 0 && !due.IsZero() || c.after != 0 && (due.Before(before) || due.After(soon(c.after))) || !strings.Contains(why, c.why) {
				t.Errorf("%s (in %s), %q", due, time.Until(due), why)
			}
		})
	}
	// A sign is worth something.
	s, says := heardOf(t, Options{Watchdog: every})
	s.heard.up()
	first, _ := s.heard.alarm(stop)
	says("WATCHDOG=1")
	if next, _ := s.heard.alarm(stop); !next.After(first) {
		t.Errorf("%s, then %s", first, next)
	}
	for _, p := range []phase{startPhase, tellPhase, stopPhase} {
		s.heard.enter(p)
		if due, _ := s.heard.alarm(stop); !due.IsZero() {
			t.Errorf("in the %s: %s", p, due)
		}
	}
}

func TestWatchdog(t *testing.T) {
	// A Go program ends with status 2 by SIGABRT.
	for name, c := range map[string]struct{ say, exit, why string }{
		"silent":   {"READY=1;WATCHDOG_USEC=20000", "exit status 2", "no sign of life (WATCHDOG=1) for 20ms"},
		"it calls": {"READY=1|WATCHDOG=trigger", "exit status 2", "WATCHDOG=trigger"},
		"stopping": {"READY=1|STOPPING=1", "signal: killed", "STOPPING=1"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, c.say)
			st.opts.Watchdog = time.Hour
			st.opts.StopTimeout = 200 * time.Millisecond
			st.opts.Env["GOTRACEBACK"] = "none"
			s := st.run()
			s.Resume()
			// It is a failure each time.
			eventually(t, "its end", func() bool {
				last := s.Status().LastExit
				return strings.HasPrefix(last, c.exit) && strings.Contains(last, c.why)
			})
			eventually(t, "another, and its end", func() bool { return s.Status().Restarts > 1 })
		})
	}
}

// A process finds how often it has to give a sign of life; what it does without is
// unhealthy on probation.
func TestWatchdogOnProbation(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	st.opts.Watchdog = time.Hour
	st.opts.Health = Health{Interval: time.Hour, Timeout: time.Second, Failures: 1, Window: time.Hour}
	s := st.start()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Status().PID))
	if want := fmt.Sprintf("\x00WATCHDOG_PID=%d\x00", s.Status().PID); err != nil || !strings.Contains(string(data), want) || !strings.Contains(string(data), "\x00WATCHDOG_USEC=3600000000\x00") {
		t.Errorf("%v, %q", err, data)
	}
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(t.Context(), nil, false) }()
	eventually(t, "the probation", func() bool {
		held := false
		_ = s.ask(t.Context(), func() error { held = s.held; return nil })
		return held && strings.Contains(st.said(), "up\n")
	})
	pid := s.Status().PID
	if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte("WATCHDOG=trigger"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := signalTo(pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "WATCHDOG=trigger") {
		t.Errorf("%v", err)
	}
	eventually(t, "the end", func() bool { return s.Status().State == Stopped })
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

// What the process gives away to be kept the next one finds.
func TestStoreOfDescriptors(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	address := freeAddress(t)
	st.opts.Env["ADDR"] = address
	s := st.start()
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	st.tell("keep http")
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address) // it waits in the backlog meanwhile
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	pid := s.Status().PID
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for _, want := range []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=http", fmt.Sprintf("LISTEN_PID=%d", pid)} {
		if err != nil || !strings.Contains(string(data), "\x00"+want+"\x00") {
			t.Errorf("%v: it has not %s: %q", err, want, data)
		}
	}
	if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", pid)); err != nil || !strings.HasPrefix(target, "socket:") {
		t.Errorf("%v, %s", err, target)
	}
	eventually(t, "the process", func() bool { return strings.Count(st.said(), "up\n") == 2 })
	st.tell("FDSTOREREMOVE=1;FDNAME=other|FDSTOREREMOVE=1")
	if files, _ := s.stored(); len(files) != 1 {
		t.Errorf("%d are left", len(files))
	}
	st.tell("FDSTOREREMOVE=1;FDNAME=http")
	if files, _ := s.stored(); len(files) != 0 {
		t.Errorf("%d are left", len(files))
	}
}

func TestStore(t *testing.T) {
	var s store
	defer s.empty()
	dup := func(f *os.File) int {
		t.Helper()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	held := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.kept) }
	one, two := open(), open()
	if over := s.add([]int{dup(one), dup(one), dup(two)}, "a", true); over != 0 || held() != 2 {
		t.Errorf("%d over, %d kept", over, held())
	}
	// Pipes whose other end is closed.
	var writers []*os.File
	for _, poll := range []bool{true, false} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
		s.add([]int{dup(r)}, "pipe", poll)
		_ = r.Close()
	}
	if s.prune(); held() != 4 {
		t.Errorf("%d kept", held())
	}
	for _, w := range writers {
		_ = w.Close()
	}
	if s.prune(); held() != 3 {
		t.Errorf("%d kept", held())
	}
	s.remove("pipe")
	for range maxStored - 2 {
		if s.add([]int{dup(open())}, "b", true) != 0 {
			t.Fatal("refused too early")
		}
	}
	if over := s.add([]int{dup(open()), dup(one), dup(open())}, "b", true); over != 2 || held() != maxStored {
		t.Errorf("%d over, %d kept", over, held())
	}
	// Where there is no kcmp.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	defer a.Close()
	defer b.Close()
	again := dup(a)
	defer unix.Close(again)
	if !sameSocket(pair[0], again) || sameSocket(pair[0], pair[1]) || sameSocket(int(one.Fd()), int(one.Fd())) {
		t.Error("sockets are not told apart")
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
			st.opts.Ready = Ready{Notify: true, Timeout: 20 * time.Second}
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

// count is how often there is the line.
func count(text, line string) int {
	n := 0
	for l := range strings.Lines(text) {
		if l == line+"\n" {
			n++
		}
	}
	return n
}

// A process that makes another the main one and ends at once, whenever it does.
func TestMainPID(t *testing.T) {
	for name, c := range map[string]struct {
		say, hangup string
		do          func(st *stage, s *Supervisor) error
	}{
		"in the start": {"pass READY=1", "", nil},
		"later": {"READY=1", "", func(st *stage, s *Supervisor) error {
			return errors.Join(os.WriteFile(filepath.Join(st.dir, "words"), []byte("pass STATUS=gone"), 0o600), signalTo(s.Status().PID, syscall.SIGUSR1))
		}},
		"in a reload": {"READY=1", "RELOADING=1|pass READY=1", func(_ *stage, s *Supervisor) error { return s.Reload(t.Context(), nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, c.say)
			st.opts.Env["HANGUP"] = c.hangup
			s := st.run()
			if err := s.Start(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			ups := 1
			if c.do != nil {
				eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
				first := s.Status().PID
				if err := c.do(st, s); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the other", func() bool { return s.Status().PID != first })
				ups = 2
			}
			eventually(t, "the other to be up", func() bool { return count(st.said(), "up") == ups })
			second := s.Status().PID
			if r := readState(t, st); s.Status().State != Running || !alive(second) || r.PID != second || s.Status().Restarts != 0 {
				t.Errorf("%+v, on record %+v", s.Status(), r)
			}
			st.tell("STATUS=here")
			if s.Status().Text != "here" || s.Status().PID != second {
				t.Errorf("%+v", s.Status())
			}
			if err := s.Reload(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if err := s.Stop(t.Context()); err != nil || alive(second) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is to be done to the process is done to the one that it has named before.
func TestMainPIDComesFirst(t *testing.T) {
	for name, do := range map[string]func(s *Supervisor) error{
		"terminated": func(s *Supervisor) error { return s.stop() },
		"hangup":     func(s *Supervisor) error { return s.reload(t.Context(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, "READY=1")
			st.opts.Env["HANGUP"] = "RELOADING=1|READY=1"
			s := st.start()
			eventually(t, "the process", func() bool { return count(st.said(), "up") == 1 })
			if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte("pass STATUS=gone"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.ask(t.Context(), func() error { // Run is busy with it
				err := signalTo(s.child.pid, syscall.SIGUSR1)
				for late := time.Now().Add(30 * time.Second); count(st.said(), "up") < 2 || s.heard.candidate(s.child) == nil; time.Sleep(2 * time.Millisecond) {
					if time.Now().After(late) {
						return errors.New("waited in vain for its word")
					}
				}
				return errors.Join(err, do(s))
			}); err != nil {
				t.Error(err)
			}
			eventually(t, name, func() bool { return count(st.said(), name) == 1 })
		})
	}
}

func TestMainPIDIsRefused(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	s := st.start()
	pid := s.Status().PID
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	for _, other := range []int{1, os.Getpid(), pid, 4194305} {
		st.tell(fmt.Sprintf("MAINPID=%d;STATUS=%d", other, other))
		looked := false
		eventually(t, "a look at it", func() bool {
			if err := s.ask(t.Context(), func() error { s.heed(); looked = s.heard.candidate(s.child) == nil; return nil }); err != nil {
				t.Fatal(err)
			}
			return looked
		})
		if status := s.Status(); status.PID != pid || status.Text != fmt.Sprint(other) {
			t.Errorf("%d: %+v", other, status)
		}
	}
}

// A candidate for the main process is spared until Run has looked at it, or nobody
// will any more.
func TestCandidateIsSpared(t *testing.T) {
	s, says := heardOf(t, Options{})
	s.heard.up()
	says("MAINPID=4194305")
	over := make(chan struct{})
	go func() { defer close(over); s.lastWord(s.child) }()
	select {
	case <-over:
		t.Error("it was not waited for")
	default:
	}
	s.heard.enter(stopPhase)
	<-over
	says("MAINPID=4194305") // nobody changes his mind now
	s.lastWord(s.child)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.confirmed(ctx, s.child, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
