//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"golang.org/x/sys/unix"
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
	case "rotating":
		playRotating(say)
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
		hoard(signals, say)
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
	log  io.Writer // gets the log, too; nil: nobody

	undrained bool // the last of the output need not arrive
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
		Command: []string{exe}, Dir: dir, StopTimeout: time.Minute, Restart: OnFailure,
		StateFile: filepath.Join(dir, "state"), Output: filepath.Join(dir, "out"),
		Backoff: Backoff{First: time.Millisecond, Max: 2 * time.Millisecond, Limit: 3},
	}}
	// A program that is built with the race detector otherwise takes a second to end.
	st.opts.Env = map[string]string{"ROLE": role, "GORACE": "atexit_sleep_ms=0"}
	st.opts.Ready = Ready{Probe: Probe{Exec: []string{"grep", "-q", "up", "said"}}, Timeout: 2 * time.Minute}
	return st
}

func (st *stage) run() *Supervisor {
	st.t.Helper()
	out := st.t.Output()
	if st.log != nil {
		out = io.MultiWriter(out, st.log)
	}
	st.s = New(st.opts, hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: out}))
	if !st.undrained {
		st.s.drain = time.Minute
	}
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
	late := time.After(2 * time.Minute)
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

// patiently is for what has to be over within a limit, and has to do something before
// that: it tries with ever higher ones, as nobody knows how slow this machine is.
func patiently(t *testing.T, limit time.Duration, try func(limit time.Duration) bool) {
	t.Helper()
	for ; !try(limit); limit *= 4 {
		if limit > 20*time.Second {
			t.Fatalf("it is not enough within %s either", limit)
		}
		t.Logf("it is not enough within %s", limit)
	}
}

// freeAddress is one that is free until the test is over: it is bound here, so nobody is
// given it by the kernel, and whoever names it can listen there all the same, because
// nobody listens here (SO_REUSEADDR, which Go sets of each listener).
func freeAddress(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}
