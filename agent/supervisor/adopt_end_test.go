//go:build linux

package supervisor

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An agent that was killed while it stopped the process: the stop is finished.
func TestStopIsFinished(t *testing.T) {
	patiently(t, 200*time.Millisecond, func(limit time.Duration) bool { return stopIsFinished(t, limit) })
}

// stopIsFinished says whether the process was asked again before it was killed.
func stopIsFinished(t *testing.T, limit time.Duration) bool {
	t.Helper()
	st := newStage(t, "stubborn")
	cmd := agentOf(t, st, "supervisor")
	eventually(t, "its process", func() bool { return strings.Count(st.said(), "up\n") == ups["stubborn"] })
	left := readState(t, st).PID
	t.Cleanup(func() { _ = signalTo(left, syscall.SIGKILL) })
	if err := cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first signal", func() bool { return strings.Count(st.said(), "terminated") == 1 })
	kill(t, cmd)

	st.opts.StopTimeout = limit
	s := st.adopt()
	if s.Status().State != Stopped || s.Status().PID != 0 || alive(left) {
		t.Errorf("left %d, now %+v", left, s.Status())
	}
	if r, err := readRecord(st.opts.StateFile); err != nil || r.PID != 0 {
		t.Error("the state file is still there")
	}
	return strings.Count(st.said(), "terminated") == 2
}

// What a process leaves that ends after its agent is killed by the next one, as the
// agent itself would have done.
func TestStragglersAreKilled(t *testing.T) {
	st := newStage(t, "parent")
	st.opts.Env["ADDR"] = freeAddress(t)
	left := killed(t, st)
	if err := signalTo(left, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ends(t, left)
	s := st.adopt()
	if s.Status().State != Stopped || s.Status().PID != 0 {
		t.Errorf("%+v", s.Status())
	}
	mustBeFree(t, st.opts.Env["ADDR"])
}

// A number that belongs to another process by now is nobody's business.
func TestStrangerIsNotTouched(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(r *recorded)
		ended bool // the leader of the group
	}{
		"another start":   {func(r *recorded) { r.Start++ }, false},
		"another boot":    {func(r *recorded) { r.Boot = "another" }, false},
		"another session": {func(r *recorded) { r.Session++ }, true},
		"none at all":     {func(r *recorded) { r.PID = 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "parent")
			address := freeAddress(t)
			st.opts.Env["ADDR"] = address
			stranger := killed(t, st)
			r := readState(t, st)
			t.Cleanup(func() { _, _, _ = treeOf(r).kill(0, false) }) // runs before the stranger is killed
			if c.ended {
				if err := signalTo(stranger, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				ends(t, stranger)
			}
			spoilt := r
			spoilt.Leader, spoilt.LeaderStart = 0, 0                       // these are r's own
			spoilt.Invocation, spoilt.Cgroup = strings.Repeat("0", 32), "" // a stranger does not have our mark
			c.spoil(&spoilt)
			if err := spoilt.write(st.opts.StateFile); err != nil {
				t.Fatal(err)
			}
			st.opts.Env["ROLE"] = "plain"
			s := st.adopt()
			if s.Status().PID != 0 {
				t.Errorf("%+v", s.Status())
			}
			if err := s.Start(t.Context(), nil); err != nil || s.Status().PID == stranger || alive(stranger) == c.ended {
				t.Errorf("%v, %+v", err, s.Status())
			}
			if err := (Probe{TCP: address}).Check(t.Context(), Options{}, nil); err != nil {
				t.Errorf("its child has gone: %v", err)
			}
			if strings.Contains(st.said(), "terminated") {
				t.Errorf("it was asked to end: %q", st.said())
			}
		})
	}
}

// While it cannot be known what runs, nothing is started.
func TestAdoptFails(t *testing.T) {
	st := newStage(t, "plain")
	if err := os.Mkdir(st.opts.StateFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := st.run().Adopt(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot find out") {
		t.Errorf("%v", err)
	}
}

func TestRelease(t *testing.T) {
	st := newStage(t, "plain")
	s := st.start()
	pid := s.Status().PID
	t.Cleanup(func() { _ = signalTo(pid, syscall.SIGKILL) })
	s.Release()
	<-s.ended
	if err := st.end(); err != nil || !alive(pid) || readState(t, st).PID != pid {
		t.Errorf("%v, %q", err, st.said())
	}
	if err := s.Stop(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("a stop after it: %v", err)
	}
	if next := st.adopt(); next.Status().PID != pid {
		t.Errorf("%+v", next.Status())
	}
	if err := st.end(); err != nil || alive(pid) {
		t.Errorf("after the end of the next one: %v", err)
	}
}

// A process that was not ready when it was taken over did not come up. One whose word
// alone is missing may have said it to nobody: it is started again.
func TestCameUp(t *testing.T) {
	never := Probe{Exec: []string{"false"}}
	for name, c := range map[string]struct {
		role  string
		ready Ready
		again bool
		want  error
	}{
		"it was ready":                  {"plain", Ready{Delay: time.Millisecond, Timeout: time.Minute}, false, nil},
		"it was not":                    {"plain", Ready{Probe: never, Timeout: 50 * time.Millisecond}, false, ErrNotReady},
		"its word is missing":           {"speaker", Ready{Notify: true, Timeout: 50 * time.Millisecond}, true, nil},
		"its word is missing for good":  {"plain", Ready{Notify: true, Timeout: 50 * time.Millisecond}, true, ErrNotReady},
		"it has ended, and is not told": {"plain", Ready{Delay: time.Hour, Timeout: time.Hour}, true, ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "plain")
			left := killed(t, st)
			st.opts.Ready = c.ready
			s := st.run()
			if errors.Is(c.want, ErrNotRunning) {
				if err := signalTo(left, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				ends(t, left)
			}
			if err := s.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			st.opts.Env["ROLE"], st.opts.Env["SAY"] = c.role, "READY=1"
			if c.again && c.want == nil {
				st.opts.Ready.Timeout = time.Minute
			}
			s.Configure(st.opts)
			if err := s.CameUp(t.Context(), nil); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if alive(left) == c.again || c.want == nil && !s.Up() {
				t.Errorf("%d, %+v", left, s.Status())
			}
		})
	}
}
