//go:build linux

package supervisor

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that has ended is not up, and has not survived, however long it takes until
// what it has left is gone.
func TestEndedIsNotUp(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if !pidfdEnds(fd, 30*time.Second) {
		t.Fatal("it does not end")
	}
	ended := func() *child {
		c := &child{pid: cmd.Process.Pid, started: time.Now().Add(-time.Hour), done: make(chan struct{}), fd: fd}
		time.AfterFunc(10*surviveTime, func() { close(c.done) })
		return c
	}
	for _, probe := range []Probe{{}, {Exec: []string{"true"}}} {
		s := New(Options{Ready: Ready{Delay: time.Millisecond, Probe: probe, Timeout: time.Minute}}, nil)
		s.child = ended()
		if err := s.waitReady(t.Context(), nil); !errors.Is(err, ErrStartFailed) {
			t.Errorf("%v: %v", probe, err)
		}
	}
	s := New(Options{}, nil)
	if s.survives(ended(), surviveTime) {
		t.Error("it has survived its end")
	}
}

// That a process has ended since it was up is seen, whatever its policy makes of it.
func TestStillUp(t *testing.T) {
	for _, first := range []time.Duration{time.Millisecond, time.Hour} {
		st := newStage(t, "plain")
		st.opts.Backoff.First, st.opts.Backoff.Max = first, first
		s := st.start()
		if err := s.StillUp(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.ask(t.Context(), func() error { // Run cannot see it yet
			pid := s.child.pid
			if err := signalTo(pid, syscall.SIGKILL); err != nil {
				return err
			}
			ends(t, pid)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if first == time.Millisecond {
			eventually(t, "another process", s.Up)
		}
		if err := s.StillUp(t.Context()); !errors.Is(err, ErrStartFailed) {
			t.Error(err)
		}
	}
}

// What a process has said while there was no agent is waited for by the next one, and
// not by those after it.
func TestWaitedForOnce(t *testing.T) {
	st := newStage(t, "plain") // says nothing
	left := killed(t, st)
	for _, timeout := range []time.Duration{time.Millisecond, time.Hour} {
		st.opts.Ready = Ready{Notify: true, Timeout: timeout}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		s := st.run()
		if err := s.Adopt(ctx); err != nil || s.Status().State != Running || s.Status().PID != left {
			t.Fatalf("with %s: %v, %+v", timeout, err, s.Status())
		}
		if err := s.ask(t.Context(), func() error { return s.child.unready }); !errors.Is(err, ErrNotReady) || !errors.Is(err, errNotSaid) {
			t.Errorf("with %s: %v", timeout, err)
		}
		if timeout == time.Millisecond {
			s.Release()
		}
	}
}

// A signal that waits for a process to have its turn is waited for.
func TestSignalIsTaken(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := &child{pid: cmd.Process.Pid, fd: fd}
	if c.isToTake() {
		t.Error("it was sent nothing")
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGSTOP), cmd.Process.Signal(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the signal", c.isToTake)
}
