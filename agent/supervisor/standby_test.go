//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holderAgent is an agent in a process of its own that holds sockets.
type holderAgent struct{ cmd *exec.Cmd }

// holder runs one on the stage, and returns it with the pid of its process.
func holder(t *testing.T, st *stage) (holderAgent, int) {
	t.Helper()
	var listen []string
	for _, s := range st.opts.Sockets {
		listen = append(listen, s.Listen)
	}
	cmd := exec.Command(st.opts.Command[0])
	cmd.Dir = st.dir
	cmd.Env = append(os.Environ(), "ROLE=holder agent", "PLAYED="+st.opts.Env["ROLE"], "ADDR="+strings.Join(listen, " "), "GORACE="+st.opts.Env["GORACE"])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "its process", func() bool { return strings.Count(st.said(), "up\n") == 2 })
	pid := readState(t, st).PID
	t.Cleanup(func() { _ = signalTo(pid, syscall.SIGKILL) })
	return holderAgent{cmd}, pid
}

// standbyOf returns the pid of the copy that waits; 0 if there is none.
func standbyOf(t *testing.T, s *Supervisor) (pid int) {
	t.Helper()
	if err := s.ask(t.Context(), func() error {
		if s.standby != nil {
			pid = s.standby.copy.cmd.Process.Pid
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return pid
}

// What was prepared becomes the next process; until then it is nobody's business.
func TestPreparedIsUsed(t *testing.T) {
	st := holding(t)
	s := st.start()
	first := s.Status().PID
	s.Prepare(t.Context())
	copied := standbyOf(t, s)
	if copied == 0 || s.Status().PID != first || readState(t, st).PID != first {
		t.Errorf("copy %d, %+v", copied, s.Status())
	}
	s.Prepare(t.Context())
	second := standbyOf(t, s)
	if second == copied || alive(copied) || !alive(second) {
		t.Errorf("the copy %d is there beside %d", copied, second)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), nil); err != nil || s.Status().PID != second || readState(t, st).PID != second || standbyOf(t, s) != 0 {
		t.Errorf("%v, %+v, prepared was %d", err, s.Status(), second)
	}
	st.mustServe()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Prepare(t.Context()) // of a process that is down
	third := standbyOf(t, s)
	if err := s.Start(t.Context(), nil); err != nil || third == 0 || s.Status().PID != third {
		t.Errorf("%v, %+v, prepared was %d", err, s.Status(), third)
	}
}

// What does not fit any more, or is not needed, is let go.
func TestPreparedIsLetGo(t *testing.T) {
	start := func(s *Supervisor) error { return s.Start(t.Context(), nil) }
	for name, c := range map[string]struct {
		do   func(st *stage, s *Supervisor)
		then func(s *Supervisor) error
	}{
		"other output":      {func(st *stage, s *Supervisor) { st.opts.Output = filepath.Join(st.dir, "out2"); s.Configure(st.opts) }, start},
		"output moved away": {func(st *stage, _ *Supervisor) { _ = os.Rename(st.opts.Output, st.opts.Output+".1") }, start},
		"other sockets":     {func(st *stage, s *Supervisor) { st.opts.Sockets = st.opts.Sockets[1:]; s.Configure(st.opts) }, start},
		"it was killed": {func(st *stage, s *Supervisor) {
			pid := standbyOf(st.t, s)
			_ = signalTo(pid, syscall.SIGKILL)
			ends(st.t, pid)
		}, start},
		"the end": {func(st *stage, _ *Supervisor) { _ = st.end() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			st := holding(t)
			s := st.start()
			s.Prepare(t.Context())
			copied := standbyOf(t, s)
			if err := s.Stop(t.Context()); err != nil || copied == 0 {
				t.Fatal(copied, err)
			}
			c.do(st, s)
			if c.then != nil {
				if err := c.then(s); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the process", s.Up)
				st.mustServe()
			}
			if s.Status().PID == copied || alive(copied) {
				t.Errorf("the copy %d is still there, %+v", copied, s.Status())
			}
		})
	}
}

// A process that is resumed needs what was prepared only if it is down.
func TestPreparedIsResumed(t *testing.T) {
	st := holding(t)
	s := st.start()
	s.Prepare(t.Context())
	copied := standbyOf(t, s)
	s.Resume()
	if standbyOf(t, s) != 0 || alive(copied) || !s.Up() {
		t.Errorf("the copy %d is still there, %+v", copied, s.Status())
	}
	s.Prepare(t.Context())
	copied = standbyOf(t, s)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Resume()
	eventually(t, "the process", s.Up)
	if s.Status().PID != copied {
		t.Errorf("the copy %d was not used, %+v", copied, s.Status())
	}
	st.mustServe()
}

// The sockets of a process that is to be started again are kept, too.
func TestPreparedAfterACrash(t *testing.T) {
	st := holding(t)
	st.opts.Backoff.First, st.opts.Backoff.Max = time.Hour, time.Hour
	s := st.start()
	if err := signalTo(s.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "back-off", func() bool { return s.Status().State == Waiting })
	copied := standbyOf(t, s)
	if err := s.Start(t.Context(), nil); err != nil || copied == 0 || s.Status().PID != copied {
		t.Errorf("%v, %+v, prepared was %d", err, s.Status(), copied)
	}
	st.mustServe()
}

// A copy that was never told to become the process that is on record is none.
func TestPreparedIsNotTheProcess(t *testing.T) {
	st := holding(t)
	left, copied := preparedHolder(t, st)
	if err := signalTo(left, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ends(t, left)
	r, err := readRecord(standbyFile(st.opts))
	if err != nil || r.PID != copied {
		t.Fatalf("%+v, %v; the copy is %d", r, err, copied)
	}
	if err := r.write(st.opts.StateFile); err != nil { // as between the record and the word
		t.Fatal(err)
	}
	st.mustWait(1, func() {
		s := st.adopt()
		next := standbyOf(t, s)
		if s.Status().PID != 0 || alive(copied) || next == 0 {
			t.Errorf("%+v, next copy %d", s.Status(), next)
		}
		if err := s.Start(t.Context(), nil); err != nil || s.Status().PID != next {
			t.Fatal(s.Status(), next, err)
		}
	})
}

// preparedHolder runs an agent that has prepared a start, and kills it. It returns the
// pids of the process and of the copy.
func preparedHolder(t *testing.T, st *stage) (left, copied int) {
	t.Helper()
	agent, left := holder(t, st)
	if err := agent.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy", func() bool {
		_, rest, _ := strings.Cut(st.said(), "prepared ")
		n, _ := fmt.Sscanln(rest, &copied)
		return n == 1
	})
	t.Cleanup(func() { _ = signalTo(copied, syscall.SIGKILL) })
	kill(t, agent.cmd)
	return left, copied
}

// An agent that is killed when there is no process leaves a copy that keeps the
// sockets: clients wait for the next agent.
func TestPreparedKeepsTheSockets(t *testing.T) {
	st := holding(t)
	left, copied := preparedHolder(t, st)
	if err := signalTo(left, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ends(t, left)
	inode := fileOf(t, st.endpoints()[1][1])
	st.mustWait(3, func() {
		s := st.adopt()
		if alive(copied) || s.Status().PID != 0 {
			t.Errorf("the copy %d is still there, or counts as the process: %+v", copied, s.Status())
		}
		if err := s.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	if !os.SameFile(inode, fileOf(t, st.endpoints()[1][1])) {
		t.Error("the unix socket is another")
	}
	if _, err := os.Stat(standbyFile(st.opts)); err == nil {
		t.Error("the copy is still on record")
	}
}

// It serves beside a process that lives, too, and is no hindrance to it.
func TestPreparedBesideTheProcess(t *testing.T) {
	st := holding(t)
	left, copied := preparedHolder(t, st)
	if s := st.adopt(); s.Status().PID != left || !alive(left) || alive(copied) {
		t.Errorf("%+v, copy %d", s.Status(), copied)
	}
	st.mustServe()
}

// A record that is of no use any more costs nothing: what became the process, or
// has ended, keeps nothing.
func TestPreparedIsNoMore(t *testing.T) {
	st := holding(t)
	agent, left := holder(t, st)
	r := readState(t, st)
	if err := r.write(standbyFile(st.opts)); err != nil {
		t.Fatal(err)
	}
	kill(t, agent.cmd)
	if s := st.adopt(); s.Status().PID != left || !alive(left) {
		t.Errorf("the process was taken for a copy: %+v", s.Status())
	}
	st.mustServe()
}

// Nobody comes: it does not stay for ever. One that was not told to stay ends at once.
func TestPreparedEnds(t *testing.T) {
	for _, stay := range []time.Duration{0, time.Millisecond} {
		w, err := startWaiting(nil, nil, nil, mark{})
		if err != nil {
			t.Fatal(err)
		}
		if stay > 0 {
			err = w.keep(stay)
		}
		w.close()
		if exit := ownChildren.wait(w.cmd); err != nil || w.cmd.ProcessState.ExitCode() != notExecuted {
			t.Errorf("%v, %v", err, exit)
		}
	}
}
