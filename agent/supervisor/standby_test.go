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
		"resumed": {func(*stage, *Supervisor) {}, func(s *Supervisor) error { s.Resume(); return nil }},
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

// An agent that is killed does not leave it.
func TestPreparedEndsWithTheAgent(t *testing.T) {
	st := holding(t)
	agent, left := holder(t, st)
	if err := agent.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var copied int
	eventually(t, "the copy", func() bool {
		_, rest, _ := strings.Cut(st.said(), "prepared ")
		n, _ := fmt.Sscanln(rest, &copied)
		return n == 1
	})
	if !alive(copied) {
		t.Fatal("there is none")
	}
	kill(t, agent.cmd)
	ends(t, copied)
	if s := st.adopt(); s.Status().PID != left || !alive(left) {
		t.Errorf("%+v", s.Status())
	}
}
