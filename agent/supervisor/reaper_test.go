//go:build linux

package supervisor

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// playReaping has the agent collect orphans, and meanwhile runs commands, whose status
// is to be theirs.
func playReaping(say func(...any)) {
	r, err := NewReaper()
	if err != nil {
		os.Exit(4)
	}
	go func() { _ = r.Run(context.Background()) }()
	signal.Ignore(syscall.SIGHUP)
	wrong := 0
	for range 30 { // each leaves an orphan that ends at once
		if _, err := RunCommand(context.Background(), Command{Args: []string{"sh", "-c", "(setsid true &) ; exit 7"}}); err == nil || !strings.Contains(err.Error(), "exit status 7") {
			wrong++
		}
	}
	say("wrong", wrong)
}

// A process in the background that ends while the agent runs does not stay a zombie,
// and nobody loses a status to that.
func TestOrphansAreCollected(t *testing.T) {
	st := newTree(t, "daemons", false)
	agent := agentOf(t, st, "reaping")
	eventually(t, "its processes", func() bool { return strings.Count(st.said(), "up\n") == ups["daemons"] })
	if !strings.Contains(st.said(), "wrong 0\n") {
		t.Errorf("%q", st.said())
	}
	daemon := st.pidOf("daemon")
	if st, err := statOf(daemon); err != nil || st.parent != agent.Process.Pid {
		t.Fatalf("%+v, %v; the agent is %d", st, err, agent.Process.Pid)
	}
	if err := signalTo(daemon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no zombie", func() bool { _, err := statOf(daemon); return err != nil })
	eventually(t, "no other zombie", func() bool { return len(childrenOf(agent.Process.Pid)) == 1 })
	kill(t, agent)
	if err := st.adopt().Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// The lists of the kernel, and what is done where it has none, say the same.
func TestChildrenOf(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if !slices.Contains(childrenOf(os.Getpid()), cmd.Process.Pid) {
		t.Error("not in the list of the kernel")
	}
	if !slices.Contains(childrenAmongAll(os.Getpid()), cmd.Process.Pid) {
		t.Error("not among all processes")
	}
}
