//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// playAgent supervises what COMMAND says, otherwise the role PLAYED, until it is
// killed.
func playAgent(say func(...any)) {
	opts := Options{Command: []string{os.Args[0]}, Dir: ".", StateFile: "state", StopTimeout: time.Hour}
	if command := os.Getenv("COMMAND"); command != "" {
		opts.Command = strings.Fields(command)
		direct := exec.Command(opts.Command[0], opts.Command[1:]...)
		if direct.Start() != nil {
			os.Exit(5)
		}
		say("direct", direct.Process.Pid)
	}
	opts.Env = map[string]string{"ROLE": os.Getenv("PLAYED"), "ADDR": os.Getenv("ADDR"), "GORACE": os.Getenv("GORACE"), "SAY": os.Getenv("SAY")}
	if value := os.Getenv(treeVar); value != "" {
		opts.Env[treeVar] = value
	}
	opts.noCgroup = os.Getenv("NOCGROUP") != ""
	opts.Ready.Timeout = time.Minute
	s := New(opts, hclog.NewNullLogger())
	go func() { _ = s.Run(context.Background()) }()
	if s.Start(context.Background(), nil) != nil {
		os.Exit(6)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGUSR2)
	go func() {
		<-stop
		_ = s.Stop(context.Background())
	}()
}

// agentOf runs an agent in a process of its own.
func agentOf(t *testing.T, st *stage, role string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(st.opts.Command[0])
	cmd.Dir = st.dir
	cmd.Env = append(append(os.Environ(), env...), "ROLE="+role, "PLAYED="+st.opts.Env["ROLE"], "ADDR="+st.opts.Env["ADDR"], "GORACE="+st.opts.Env["GORACE"], treeVar+"="+st.opts.Env[treeVar])
	if st.opts.noCgroup {
		cmd.Env = append(cmd.Env, "NOCGROUP=1")
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func readState(t *testing.T, st *stage) recorded {
	t.Helper()
	r, err := readRecord(st.opts.StateFile)
	if err != nil || r.PID == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// ups are the processes that say "up", the agent among them, once all is up.
var ups = map[string]int{"plain": 2, "stubborn": 2, "parent": 3, "daemons": 3, "crowd": 2, "pair": 3}

// killed runs an agent in a process of its own, kills it, and returns the pid of
// what it had started.
func killed(t *testing.T, st *stage) int {
	t.Helper()
	cmd := agentOf(t, st, "supervisor")
	eventually(t, "its process", func() bool { return strings.Count(st.said(), "up\n") == ups[st.opts.Env["ROLE"]] })
	pid := readState(t, st).PID
	t.Cleanup(func() { _ = signalTo(pid, syscall.SIGKILL) })
	kill(t, cmd)
	if !alive(pid) {
		t.Fatal("the process ended with its agent")
	}
	return pid
}

// ends waits until all threads of a process have ended, which its state Z does not
// say.
func ends(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil || !pidfdEnds(fd, 2*time.Minute) {
		t.Fatalf("waited in vain for the end of %d, %v", pid, err)
	}
	_ = unix.Close(fd)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func (st *stage) adopt() *Supervisor {
	st.t.Helper()
	s := st.run()
	if err := s.Adopt(st.t.Context()); err != nil {
		st.t.Fatal(err)
	}
	return s
}

func TestAdopt(t *testing.T) {
	st := newStage(t, "plain")
	left := killed(t, st)
	s := st.adopt()
	if status := s.Status(); status.State != Running || status.PID != left || !alive(left) {
		t.Fatalf("left %d, now %+v", left, status)
	}
	s.Resume()
	if s.Status().PID != left || strings.Contains(st.said(), "terminated") || strings.Count(st.said(), "up") != ups["plain"] {
		t.Errorf("left %d, now %+v, %q", left, s.Status(), st.said())
	}
	if err := s.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second start: %v", err)
	}
	st.opts.Reload = Reload{Signal: syscall.SIGHUP}
	s.Configure(st.opts)
	if err := s.Reload(t.Context(), nil); err != nil {
		t.Error(err)
	}
	eventually(t, "hangup", func() bool { return strings.Contains(st.said(), "hangup") })
	if err := s.Stop(t.Context()); err != nil || alive(left) || !strings.Contains(st.said(), "terminated") {
		t.Errorf("after the stop: %v, %q", err, st.said())
	}
	if r, err := readRecord(st.opts.StateFile); err != nil || r.PID != 0 {
		t.Error("the state file is still there")
	}
	if err := s.Start(t.Context(), nil); err != nil || s.Status().PID == left || readState(t, st).PID != s.Status().PID {
		t.Errorf("a start after it: %v, %+v", err, s.Status())
	}
}

// The end of Run is the end of a process that was taken over, too.
func TestAdoptedIsStoppedAtTheEnd(t *testing.T) {
	st := newStage(t, "plain")
	left := killed(t, st)
	st.adopt()
	if err := st.end(); err != nil || alive(left) {
		t.Errorf("%v", err)
	}
}

// A process that was taken over and ends is left down as long as it is held, and
// started again after that; how it ended cannot be known.
func TestAdoptedEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		resume bool
		want   State
	}{{"held", false, Stopped}, {"resumed", true, Running}} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t, "plain")
			left := killed(t, st)
			s := st.adopt()
			if c.resume {
				s.Resume()
			}
			if err := signalTo(left, syscall.SIGTERM); err != nil { // a child would end with status 0
				t.Fatal(err)
			}
			eventually(t, string(c.want), func() bool { return s.Status().State == c.want && s.Status().PID != left })
			if last := s.Status().LastExit; last != "unknown, it was started by an earlier agent" {
				t.Error(last)
			}
			s.Resume()
			eventually(t, "up again", s.Up)
		})
	}
}

// One that has ended while there was no agent is told of before another is started.
func TestLeftHasEnded(t *testing.T) {
	st := newStage(t, "plain")
	left := killed(t, st)
	if err := signalTo(left, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ends(t, left)
	var log bytes.Buffer
	st.log = &log
	s := st.adopt()
	if status := s.Status(); status.PID != 0 || status.State != Stopped {
		t.Errorf("%+v", status)
	}
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if want := fmt.Sprintf("[WARN]  the process that an earlier agent has left has ended: pid=%d\n", left); strings.Count(log.String(), want) != 1 {
		t.Errorf("not told once that %d has ended: %q", left, log.String())
	}
}

func TestAdoptWaitsUntilReady(t *testing.T) {
	for _, c := range []struct {
		name  string
		ready Ready
		do    func(pid int, cancel func())
		err   error
		want  State
	}{
		{"not ready", Ready{Probe: Probe{Exec: []string{"false"}}, Timeout: 50 * time.Millisecond}, nil, nil, Running},
		{"ends", Ready{Probe: Probe{Exec: []string{"false"}}, Timeout: time.Hour}, func(pid int, _ func()) { _ = signalTo(pid, syscall.SIGKILL) }, nil, Stopped},
		{"the agent is told to end", Ready{Delay: time.Hour, Timeout: time.Hour}, func(_ int, cancel func()) { cancel() }, context.Canceled, Starting},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t, "plain")
			st.opts.Ready = c.ready
			left := killed(t, st)
			s := st.run()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			adopted := make(chan error, 1)
			go func() { adopted <- s.Adopt(ctx) }()
			if c.do != nil {
				eventually(t, "the process", func() bool { return s.Status().PID == left })
				c.do(left, cancel)
			}
			if err := <-adopted; !errors.Is(err, c.err) || s.Status().State != c.want {
				t.Errorf("%v, %+v", err, s.Status())
			}
			if err := st.end(); err != nil || alive(left) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// The agent may be told to end before it has looked: it ends the process then.
func TestAdoptAfterTheEnd(t *testing.T) {
	st := newStage(t, "plain")
	st.opts.Ready = Ready{Delay: time.Hour, Timeout: time.Hour}
	left := killed(t, st)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := st.run().Adopt(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := st.end(); err != nil || alive(left) {
		t.Errorf("after the end: %v", err)
	}
}

// The delay of an adopted process counts from its own start.
func TestStartedAt(t *testing.T) {
	before := time.Now()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	after := time.Now()
	r, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond
	// It reads two clocks, one after the other, and a slow machine may do much between.
	eventually(t, fmt.Sprintf("a time between %s and %s, not %s", before, after, startedAt(r.Start)), func() bool {
		at := startedAt(r.Start)
		return !at.Before(before.Add(-2*tick)) && !at.After(after.Add(tick))
	})
	s := New(Options{Ready: Ready{Delay: time.Hour, Timeout: time.Minute}}, nil)
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s.child = &child{started: time.Now().Add(-2 * time.Hour), done: make(chan struct{}), fd: fd}
	if err := s.waitReady(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// What a process that was taken over has started goes with it.
func TestAdoptedGroupIsGone(t *testing.T) {
	for name, end := range map[string]func(s *Supervisor, pid int) error{
		"stopped": func(s *Supervisor, _ int) error { return s.Stop(t.Context()) },
		"ends":    func(_ *Supervisor, pid int) error { return signalTo(pid, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "parent")
			address := freeAddress(t)
			st.opts.Env["ADDR"] = address
			st.opts.Ready = Ready{Probe: Probe{TCP: address}, Timeout: 2 * time.Minute}
			left := killed(t, st)
			s := st.adopt()
			if err := end(s, left); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end", func() bool { return s.Status().State == Stopped })
			mustBeFree(t, address)
		})
	}
}

func mustBeFree(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
