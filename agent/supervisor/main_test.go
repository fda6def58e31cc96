//go:build linux

package supervisor

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// second waits until both of a pair are ready for signals.
func (st *stage) second() int {
	st.t.Helper()
	pid := st.pidOf("second")
	eventually(st.t, "both to be up", func() bool { return count(st.said(), "up") == 2 })
	return pid
}

// Another process of the tree may become the main one.
func TestNewMain(t *testing.T) {
	for name, c := range map[string]struct {
		subreaper bool
		says      string
	}{"a child when its parent has gone": {true, "signal: killed"}, "nobody's": {false, "unknown, it was not started by the agent itself"}} {
		t.Run(name, func(t *testing.T) {
			if c.subreaper {
				if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
			}
			st := newTree(t, "pair", false)
			st.opts.Restart = Never
			s := st.start()
			first, second := s.Status().PID, st.second()
			become := func(pid int) error {
				return s.ask(t.Context(), func() error { return s.newMain(pid) })
			}
			for _, pid := range []int{os.Getpid(), 1, 1 << 30} {
				if err := become(pid); err == nil || s.Status().PID != first {
					t.Errorf("%d: %v, %+v", pid, err, s.Status())
				}
			}
			for _, pid := range []int{second, second, first, second} { // an upgrade, given up once
				if err := become(pid); err != nil || s.Status().PID != pid || !s.Up() || readState(t, st).PID != pid {
					t.Fatalf("%d: %v, %+v", pid, err, s.Status())
				}
			}
			if err := signalTo(first, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "no zombie", func() bool { _, err := statOf(first); return err != nil })
			if !s.Up() || !alive(second) {
				t.Fatalf("%+v", s.Status())
			}
			if err := become(first); err == nil {
				t.Error("one that has ended is the main one")
			}
			if err := signalTo(second, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end", func() bool { return s.Status().State == Ended })
			if last := s.Status().LastExit; last != c.says {
				t.Error(last)
			}
			if left := st.tree(); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

// A stop ends the new main process by the signal, and the one from before with all
// else; so does the next agent.
func TestNewMainIsStopped(t *testing.T) {
	st := newTree(t, "pair", false)
	s := st.start()
	first, second := s.Status().PID, st.second()
	if err := s.ask(t.Context(), func() error { return s.newMain(second) }); err != nil {
		t.Fatal(err)
	}
	r := readState(t, st)
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if alive(first) || alive(second) || s.Status().LastExit == "" {
		t.Errorf("%+v", s.Status())
	}
	if r.PID != second || r.Leader != first || strings.Count(st.said(), "terminated") != 1 {
		t.Errorf("%+v, %q", r, st.said())
	}
}

// What the old main process says last counts, although it ends before that is heard.
func TestLastWord(t *testing.T) {
	st := newTree(t, "pair", false)
	s := st.start()
	first, second := s.Status().PID, st.second()
	if err := s.ask(t.Context(), func() error {
		s.child.hear(func() { _ = s.ask(context.Background(), func() error { return s.newMain(second) }) }, func() {})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := signalTo(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other", func() bool { return s.Status().PID == second && s.Up() })
	if err := s.Stop(t.Context()); err != nil || alive(second) {
		t.Error(err)
	}
}

// One that was the main process keeps its number until what it has said last is heard.
func TestFormerMainIsHeard(t *testing.T) {
	st := newTree(t, "pair", false)
	s := st.start()
	first, second := s.Status().PID, st.pidOf("second")
	there := make(chan error, 2)
	look := func() { // by either, as it may end while the waiter learns of the other
		_, err := statOf(first)
		there <- err
	}
	if err := s.ask(t.Context(), func() error {
		s.child.hear(look, look)
		return s.newMain(second)
	}); err != nil {
		t.Fatal(err)
	}
	if err := signalTo(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-there:
		if err != nil {
			t.Errorf("its number is another's by now: %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("it is not heard any more")
	}
	eventually(t, "no zombie", func() bool { _, err := statOf(first); return err != nil })
}

// A next agent goes on with the process that was the main one in the end.
func TestNewMainIsAdopted(t *testing.T) {
	st := newTree(t, "pair", false)
	first := killed(t, st)
	second := st.pidOf("second")
	r := readState(t, st)
	st2, err := statOf(second)
	if err != nil {
		t.Fatal(err)
	}
	r.PID, r.Start = second, st2.start
	if err := r.write(st.opts.StateFile); err != nil {
		t.Fatal(err)
	}
	s := st.adopt()
	if s.Status().PID != second {
		t.Errorf("%+v", s.Status())
	}
	if err := s.Stop(t.Context()); err != nil || alive(first) || alive(second) {
		t.Errorf("%v", err)
	}
}

// A status reads as os/exec has it.
func TestExitStatusSays(t *testing.T) {
	for want, status := range map[string]syscall.WaitStatus{
		"exit status 3": 3 << 8, "signal: killed": 9, "signal: segmentation fault (core dumped)": 11 | 0x80,
	} {
		if got := (exitStatus{known: true, status: status}).String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !(exitStatus{known: true}).success() || (exitStatus{}).success() {
		t.Error("success")
	}
}
