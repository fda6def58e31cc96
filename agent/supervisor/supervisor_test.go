//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The test binary is also the processes that are supervised: the variable ROLE
// says which.
func TestMain(m *testing.M) {
	if os.Args[0] == ExecName {
		ExecMain()
	}
	if role := os.Getenv("ROLE"); role != "" {
		play(role)
		return
	}
	// A hangup that is ignored here, as nohup has it, would be ignored by the processes
	// too; the agent handles it, and so do the tests.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// play is one of the processes. All of them write "up" to the file "said" in their
// working directory when they are ready for signals, and then what happens.
func play(role string) {
	signals := make(chan os.Signal, 8)
	say := func(words ...any) {
		f, err := os.OpenFile("said", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			os.Exit(9)
		}
		fmt.Fprintln(f, words...)
		_ = f.Close()
	}
	serve := func(network, address string) {
		l, err := net.Listen(network, address)
		if err != nil {
			say("cannot listen", err)
			os.Exit(8)
		}
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				say("asked", r.Method, r.URL.Path)
				if r.URL.Path == "/no" {
					http.Error(w, "not now", http.StatusTeapot)
				}
			}))
		}()
	}
	stubborn := false
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	switch role {
	case "tcp":
		serve("tcp", os.Getenv("ADDR"))
	case "unix":
		serve("unix", os.Getenv("ADDR"))
	case "deaf":
		signal.Reset(syscall.SIGHUP)
	case "stubborn":
		stubborn = true
	case "fails":
		fmt.Println("no luck")
		os.Exit(3)
	case "done":
		os.Exit(0)
	case "parent": // a child of its group holds the port
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "ROLE=holder")
		if cmd.Start() != nil {
			os.Exit(7)
		}
	case "holder":
		signal.Ignore(syscall.SIGTERM)
		serve("tcp", os.Getenv("ADDR"))
	case "talker":
		for i := 0; ; i++ {
			fmt.Printf("line %d\n", i)
		}
	case "prints", "prints on", "piped":
		print(role)
	case "daemons", "between", "crowd", "pair":
		playTree(role, say)
	case "reaping":
		playReaping(say)
		playAgent(say)
	case "speaker":
		speak(say)
	case "hoarder":
		hoard(signals)
	case "sayer":
		if notify(strings.ReplaceAll(os.Getenv("SAY"), ";", "\n"), nil) != nil {
			os.Exit(4)
		}
		os.Exit(0)
	case "held":
		playHeld(say)
	case "holder agent":
		playHolder(say)
	case "supervisor":
		playAgent(say)
	case "halfway", "told":
		playHalf(role == "told")
	}
	say("up")
	for s := range signals {
		say(s)
		if s == syscall.SIGTERM && !stubborn {
			os.Exit(0)
		}
	}
}

// stage is a supervisor under test, with a folder of its own.
type stage struct {
	t    *testing.T
	dir  string
	opts Options
	s    *Supervisor
	end  func() error
}

func newStage(t *testing.T, role string) *stage {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { noCgroups(t, filepath.Join(dir, "state")) })
	st := &stage{t: t, dir: dir, opts: Options{
		Command: []string{exe}, Dir: dir, StopTimeout: 10 * time.Second, Restart: OnFailure,
		StateFile: filepath.Join(dir, "state"), Output: filepath.Join(dir, "out"),
		Backoff: Backoff{First: time.Millisecond, Max: 2 * time.Millisecond, Limit: 3},
	}}
	// A program that is built with the race detector otherwise takes a second to end.
	st.opts.Env = map[string]string{"ROLE": role, "GORACE": "atexit_sleep_ms=0"}
	st.opts.Ready = Ready{Probe: Probe{Exec: []string{"grep", "-q", "up", "said"}}, Timeout: 20 * time.Second}
	return st
}

func (st *stage) run() *Supervisor {
	st.t.Helper()
	st.s = New(st.opts, hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: st.t.Output()}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.s.Run(ctx) }()
	st.end = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	st.t.Cleanup(func() { _ = st.end() })
	return st.s
}

func (st *stage) start() *Supervisor {
	st.t.Helper()
	s := st.run()
	if err := s.Start(st.t.Context(), nil); err != nil {
		st.t.Fatal(err)
	}
	return s
}

func (st *stage) said() string {
	data, _ := os.ReadFile(filepath.Join(st.dir, "said"))
	return string(data)
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		case <-again.C:
		}
	}
}

// signalTo is kill(2) for one process. A test that has no number must not hit all that
// there are.
func signalTo(pid int, sig syscall.Signal) error {
	if pid <= 1 {
		return fmt.Errorf("cannot signal pid %d: %w", pid, syscall.ESRCH)
	}
	return syscall.Kill(pid, sig)
}

func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestReady(t *testing.T) {
	address := freeAddress(t)
	for name, c := range map[string]struct {
		role  string
		env   string
		ready Ready
	}{
		"delay": {"plain", "", Ready{Delay: time.Millisecond}},
		"exec":  {"plain", "", Ready{Probe: Probe{Exec: []string{"grep", "-q", "up", "said"}}}},
		"tcp":   {"tcp", address, Ready{Probe: Probe{TCP: address}}},
		"http":  {"tcp", address, Ready{Probe: Probe{HTTP: "http://" + address + "/ok"}}},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, c.role)
			st.opts.Env["ADDR"] = c.env
			st.opts.Ready = c.ready
			st.opts.Ready.Timeout = 20 * time.Second
			s := st.start()
			if status := s.Status(); status.State != Running || !alive(status.PID) || !s.Up() {
				t.Errorf("%+v", status)
			}
			pid := s.Status().PID
			if err := s.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) || s.Status().PID != pid {
				t.Errorf("a second start: %v", err)
			}
			if err := st.end(); err != nil || alive(pid) {
				t.Errorf("after the end: %v", err)
			}
			if r, err := readRecord(st.opts.StateFile); err != nil || r.PID != 0 {
				t.Error("the state file is still there")
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(st *stage)
		want   error
		says   string
	}{
		"not found":     {func(st *stage) { st.opts.Command = []string{"no-such-program"} }, ErrStartFailed, "not found"},
		"not a program": {func(st *stage) { st.opts.Command = []string{"./said"} }, ErrStartFailed, "/said: no such file or directory"},
		"not executable": {func(st *stage) {
			st.opts.Command = []string{"./text"}
			if err := os.WriteFile(filepath.Join(st.dir, "text"), nil, 0o644); err != nil {
				st.t.Fatal(err)
			}
		}, ErrStartFailed, "/text: permission denied"},
		"cannot be recorded": {func(st *stage) { st.opts.StateFile = filepath.Join(st.dir, "no/state") }, ErrStartFailed, "on record"},
		"ends at once":       {func(st *stage) { st.opts.Env["ROLE"] = "fails" }, ErrStartFailed, "exit status 3"},
		"never ready": {func(st *stage) {
			st.opts.Ready = Ready{Probe: Probe{Exec: []string{"false"}}, Timeout: time.Second}
		}, ErrNotReady, "exit status 1"},
		"no such user":      {func(st *stage) { st.opts.User = "no-such-user" }, ErrStartFailed, "no-such-user"},
		"no output":         {func(st *stage) { st.opts.Output = filepath.Join(st.dir, "no/out") }, ErrStartFailed, "target.output"},
		"no such directory": {func(st *stage) { st.opts.Dir = filepath.Join(st.dir, "no") }, ErrStartFailed, "/no: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "plain")
			c.change(st)
			s := st.run()
			if err := s.Start(t.Context(), nil); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.want, c.says)
			}
			if status := s.Status(); status.State != Stopped || status.PID != 0 {
				t.Errorf("%+v", status)
			}
			if r, err := readRecord(st.opts.StateFile); err != nil || r.PID != 0 {
				t.Error("there is a state file")
			}
		})
	}
}

func TestStopByTimeoutKills(t *testing.T) {
	st := newStage(t, "stubborn")
	st.opts.StopTimeout = 50 * time.Millisecond
	s := st.start()
	pid := s.Status().PID
	if err := s.Stop(t.Context()); err != nil || alive(pid) {
		t.Errorf("%v", err)
	}
	if !strings.Contains(st.said(), "terminated") || !strings.Contains(s.Status().LastExit, "killed") {
		t.Errorf("%q, %+v", st.said(), s.Status())
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

// What the process has started goes with it, and what that held is free.
func TestGroupIsGone(t *testing.T) {
	st := newStage(t, "parent")
	address := freeAddress(t)
	st.opts.Env["ADDR"] = address
	st.opts.Ready = Ready{Probe: Probe{TCP: address}, Timeout: 20 * time.Second}
	s := st.start()
	for range 3 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("after the stop: %v", err)
		}
		_ = l.Close()
		if err := s.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	// Also when the process ends by itself.
	pid := s.Status().PID
	if err := signalTo(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another one that could listen", func() bool { return s.Up() && s.Status().PID != pid })
}

func TestRestarts(t *testing.T) {
	for _, c := range []struct {
		name   string
		role   string
		policy Policy
		want   State
	}{
		{"fails too often", "fails", OnFailure, Failed},
		{"ends well", "done", OnFailure, Failed}, // it never became ready
		{"never again", "fails", Never, Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t, c.role)
			st.opts.Restart = c.policy
			s := st.run()
			s.Resume()
			eventually(t, string(c.want), func() bool { return s.Status().State == c.want })
		})
	}
	for _, c := range []struct {
		policy Policy
		kill   syscall.Signal
		want   State
	}{{OnFailure, syscall.SIGKILL, Running}, {OnFailure, syscall.SIGTERM, Ended}, {Always, syscall.SIGTERM, Running}, {Never, syscall.SIGKILL, Ended}} {
		t.Run(fmt.Sprintf("%s after %s", c.policy, c.kill), func(t *testing.T) {
			st := newStage(t, "plain")
			st.opts.Restart = c.policy
			s := st.start()
			pid := s.Status().PID
			if err := signalTo(pid, c.kill); err != nil {
				t.Fatal(err)
			}
			eventually(t, string(c.want), func() bool { return s.Status().State == c.want && s.Status().PID != pid })
			s.Resume()
			eventually(t, "up again", s.Up)
		})
	}
}

// At the limit the process is left down; whoever asks for a start gets one, and as many
// restarts again.
func TestLimitBeginsAnew(t *testing.T) {
	for name, again := range map[string]func(s *Supervisor) error{
		"start":  func(s *Supervisor) error { return s.Start(t.Context(), nil) },
		"resume": func(s *Supervisor) error { s.Resume(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "plain")
			st.opts.Backoff.Limit, st.opts.Backoff.Window = 2, time.Hour
			s := st.start()
			end := func() {
				t.Helper()
				pid := s.Status().PID
				if err := signalTo(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the end", func() bool { return s.Status().PID != pid })
			}
			for range 2 {
				for range 2 {
					end()
					eventually(t, "up again", s.Up)
				}
				end()
				eventually(t, "failed", func() bool { return s.Status().State == Failed })
				if err := again(s); err != nil {
					t.Fatal(err)
				}
				eventually(t, "up again", s.Up)
			}
		})
	}
}

// While its files are changed a process that ends is left down.
func TestHold(t *testing.T) {
	st := newStage(t, "plain")
	s := st.start()
	if err := s.Hold(t.Context()); err != nil || !s.Up() {
		t.Fatal(err)
	}
	if err := signalTo(s.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stopped", func() bool { return s.Status().State == Stopped })
	if err := s.Reload(t.Context(), nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	if err := s.Start(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestReload(t *testing.T) {
	address := freeAddress(t)
	socket := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		name   string
		role   string
		addr   string
		reload Reload
		want   error
		says   string // what the process said, or the error
	}{
		{"signal", "plain", "", Reload{Signal: syscall.SIGHUP}, nil, "hangup"},
		{"signal, and it dies of it", "deaf", "", Reload{Signal: syscall.SIGHUP}, ErrReloadFailed, "hangup"},
		{"exec", "plain", "", Reload{Exec: []string{"sh", "-c", `echo "told $PATCHAGENT_BUILD" >>said`}}, nil, "told 7"},
		{"exec fails", "plain", "", Reload{Exec: []string{"sh", "-c", "echo bad config; exit 1"}}, ErrReloadFailed, `"bad config"`},
		{"exec hangs", "plain", "", Reload{Exec: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond}, ErrReloadFailed, "longer than 50ms"},
		{"http", "tcp", address, Reload{HTTP: "http://" + address + "/reload"}, nil, "asked POST /reload"},
		{"http refuses", "tcp", address, Reload{HTTP: "http://" + address + "/no"}, ErrReloadFailed, "not now"},
		{"unix socket", "unix", socket, Reload{HTTP: "unix:" + socket + ":/reload"}, nil, "asked POST /reload"},
		{"not at all", "plain", "", Reload{}, nil, "up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t, c.role)
			st.opts.Env["ADDR"] = c.addr
			st.opts.Reload = c.reload
			if st.opts.Reload.Timeout == 0 {
				st.opts.Reload.Timeout = 20 * time.Second
			}
			s := st.start()
			pid := s.Status().PID
			err := s.Reload(t.Context(), []string{"PATCHAGENT_BUILD=7"})
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %q", err, c.says)
				}
				return
			}
			eventually(t, c.says, func() bool { return strings.Contains(st.said(), c.says) })
			if s.Status().PID != pid || !alive(pid) {
				t.Error("another process")
			}
		})
	}
}

// A program that somebody still has open for writing is tried again.
func TestBusyProgram(t *testing.T) {
	st := newStage(t, "plain")
	data, err := os.ReadFile(st.opts.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(st.dir, "program")
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(program, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	st.opts.Command = []string{"./program"}
	s := st.run()
	began := time.Now()
	if err := s.Start(t.Context(), nil); !errors.Is(err, syscall.ETXTBSY) || time.Since(began) < busyTime {
		t.Errorf("%v", err)
	}
	started := make(chan error, 1)
	go func() { started <- s.Start(t.Context(), nil) }()
	eventually(t, "the first attempt", func() bool {
		r, _ := readRecord(st.opts.StateFile)
		folder, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", r.PID))
		return folder == st.dir
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestCancelledStartReturns(t *testing.T) {
	st := newStage(t, "plain")
	st.opts.Ready = Ready{Probe: Probe{Exec: []string{"false"}}, Timeout: time.Hour}
	s := st.run()
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { started <- s.Start(ctx, nil) }()
	eventually(t, "a process", func() bool { return s.Status().PID != 0 })
	pid := s.Status().PID
	cancel()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := st.end(); err != nil || alive(pid) {
		t.Errorf("%v", err)
	}
}
