//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
			st.opts.Ready.Timeout = 2 * time.Minute
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
			err := s.Start(t.Context(), nil)
			if c.want == ErrNotReady && errors.Is(err, ErrNotReady) && !strings.Contains(err.Error(), c.says) {
				patiently(t, 4*st.opts.Ready.Timeout, func(limit time.Duration) bool { // it could not even be asked
					st.opts.Ready.Timeout = limit
					s.Configure(st.opts)
					err = s.Start(t.Context(), nil)
					return strings.Contains(err.Error(), c.says)
				})
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.want, c.says)
			}
			if status := s.Status(); status.State != Stopped || status.PID != 0 || !strings.Contains(status.LastError, c.says) {
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
	s := st.run()
	patiently(t, 50*time.Millisecond, func(limit time.Duration) bool {
		st.opts.StopTimeout = limit
		s.Configure(st.opts)
		if err := s.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		pid := s.Status().PID
		if err := s.Stop(t.Context()); err != nil || alive(pid) || !strings.Contains(s.Status().LastExit, "killed") {
			t.Fatalf("%v, %+v", err, s.Status())
		}
		return strings.Contains(st.said(), "terminated") // it was asked before
	})
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

// What the process has started goes with it, and what that held is free.
func TestGroupIsGone(t *testing.T) {
	st := newStage(t, "parent")
	address := freeAddress(t)
	st.opts.Env["ADDR"] = address
	st.opts.Ready = Ready{Probe: Probe{TCP: address}, Timeout: 2 * time.Minute}
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

// A process that cannot be started is started anew when that is mended, with as many
// attempts again; other changes leave it as it is.
func TestMendedStart(t *testing.T) {
	for name, c := range map[string]struct {
		backoff Backoff
		state   State
	}{
		"failed":   {Backoff{First: time.Millisecond, Max: time.Millisecond, Limit: 1, Window: time.Hour}, Failed},
		"back-off": {Backoff{First: time.Hour, Max: time.Hour, Limit: 1, Window: time.Hour}, Waiting},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "plain")
			good := st.opts.Command
			st.opts.Backoff, st.opts.Command = c.backoff, []string{"./no-such"}
			s := st.run()
			s.Resume()
			failed := func() bool {
				status := s.Status()
				return status.State == c.state && strings.Contains(status.LastError, "no-such")
			}
			eventually(t, name, failed)
			since := s.Status().Since
			st.opts.StopTimeout++
			s.Configure(st.opts)
			if err := s.ask(t.Context(), func() error { return nil }); err != nil || !failed() || !s.Status().Since.Equal(since) {
				t.Errorf("after another change: %v, %+v", err, s.Status())
			}
			st.opts.Command = good
			s.Configure(st.opts)
			eventually(t, "up", s.Up)
			if status := s.Status(); status.LastError != "" || status.Restarts != 0 {
				t.Errorf("%+v", status)
			}
		})
	}
}

// What did not come up when somebody has asked for it is tried again as the policy says.
func TestRetry(t *testing.T) {
	for policy, want := range map[Policy]State{Never: Failed, OnFailure: Waiting, Always: Waiting} {
		t.Run(string(policy), func(t *testing.T) {
			st := newStage(t, "fails")
			st.opts.Restart, st.opts.Backoff = policy, Backoff{First: time.Hour, Max: time.Hour, Limit: 1, Window: time.Hour}
			s := st.run()
			for range 2 { // each has all its attempts
				if err := s.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) {
					t.Fatal(err)
				}
				again := s.Retry()
				if status := s.Status(); again != (want == Waiting) || status.State != want || !strings.Contains(status.LastError, "exit status 3") {
					t.Errorf("%v, %+v", again, status)
				}
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
				st.opts.Reload.Timeout = 2 * time.Minute
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
	busy := func() *os.File {
		f, err := os.OpenFile(program, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	st.opts.Command = []string{"./program"}
	s := st.run()
	f := busy()
	began := time.Now()
	if err := s.Start(t.Context(), nil); !errors.Is(err, syscall.ETXTBSY) || time.Since(began) < busyTime {
		t.Errorf("%v", err)
	}
	for tries := 5; ; tries-- { // to be in time
		started := make(chan error, 1)
		go func() { started <- s.Start(t.Context(), nil) }()
		eventually(t, "the first attempt", func() bool {
			r, _ := readRecord(st.opts.StateFile)
			folder, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", r.PID))
			return folder == st.dir || len(started) > 0
		})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		err := <-started
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ETXTBSY) || tries == 0 {
			t.Fatal(err)
		}
		f = busy()
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
