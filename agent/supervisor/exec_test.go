//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// playHalf is an agent that has not yet said what to execute, or has done so and
// does not know yet whether it went well.
func playHalf(told bool) {
	w, err := startWaiting(nil, nil, nil, mark{})
	if err == nil {
		_, err = putOnRecord(w, "state")
	}
	s, specErr := specOf(Options{Command: []string{"./program"}, Dir: ".", Env: map[string]string{"ROLE": "plain"}}, surroundings{})
	if err := errors.Join(err, specErr); err != nil {
		os.Exit(5)
	}
	if told {
		go func() { _ = w.become(s) }()
	}
}

// An agent that is killed before its process is one leaves nothing.
func TestKilledBetweenForkAndExec(t *testing.T) {
	st := newStage(t, "plain")
	cmd := agentOf(t, st, "halfway")
	eventually(t, "the agent", func() bool { return strings.Contains(st.said(), "up\n") })
	pid := readState(t, st).PID
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || strings.Trim(string(name), "\x00") != ExecName {
		t.Fatalf("%q, %v", name, err)
	}
	kill(t, cmd)
	s := st.adopt() // at once, as a service manager would
	if s.Status().State != Stopped || s.Status().PID != 0 || alive(pid) {
		t.Errorf("%+v", s.Status())
	}
	if err := s.Start(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// One that is killed when its process has the word is followed by one that waits
// for what becomes of that.
func TestKilledBeforeExec(t *testing.T) {
	st := newStage(t, "plain")
	data, err := os.ReadFile(st.opts.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(st.dir, "program"), os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	cmd := agentOf(t, st, "told")
	eventually(t, "the agent", func() bool { return strings.Contains(st.said(), "up\n") })
	pid := readState(t, st).PID
	t.Cleanup(func() { _ = signalTo(pid, syscall.SIGKILL) })
	eventually(t, "the word", func() bool {
		input, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid))
		return input == os.DevNull
	})
	kill(t, cmd)
	if err := f.Close(); err != nil { // until now it is busy
		t.Fatal(err)
	}
	if s := st.adopt(); s.Status().PID != pid {
		t.Errorf("%+v", s.Status())
	}
	eventually(t, "the process itself", func() bool { return strings.Count(st.said(), "up\n") == ups["plain"] })
}

// Half a word is none.
func TestTornSpec(t *testing.T) {
	w, err := startWaiting(nil, nil, nil, mark{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.socket.WriteString(`{"Path":"L2Jpbi9zaA==","Args":["c2g=`); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(int(w.socket.Fd()), unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(w.socket); err != nil || len(answer) > 0 {
		t.Errorf("%q, %v", answer, err)
	}
	if err := ownChildren.wait(w.cmd); w.cmd.ProcessState.ExitCode() != notExecuted {
		t.Errorf("%v", err)
	}
	w.close()
}

// A copy that does nothing does not keep its agent from all else.
func TestCopyThatDoesNotBecomeTheProcess(t *testing.T) {
	for name, size := range map[string]int{"short word": 0, "long word": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			st := newTree(t, "plain", false)
			for i := range 20 { // together more than a socket takes in
				st.opts.Env[fmt.Sprint("LARGE_", i)] = strings.Repeat("x", size)
			}
			s := st.run()
			s.Prepare(t.Context())
			pid := standbyOf(t, s)
			if err := signalTo(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if err := s.ask(t.Context(), func() error { s.standby.copy.within = 50 * time.Millisecond; return nil }); err != nil {
				t.Fatal(err)
			}
			err := s.Start(t.Context(), nil)
			if !errors.Is(err, ErrStartFailed) || !strings.Contains(err.Error(), "was stopped (SIGSTOP)") || alive(pid) {
				t.Errorf("%v", err)
			}
			if r, err := readRecord(st.opts.StateFile); err != nil || r.PID != 0 {
				t.Errorf("%+v is on record, %v", r, err)
			}
			if err := s.Start(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
}
