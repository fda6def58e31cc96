//go:build linux

package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// playHeld serves on the sockets that it was handed: each client is told the number of
// the process. ADDR says what else it does: "shrink" listens again with the shortest
// queue, "shut down" does that to the sockets at its end, "hidden" has them in a
// child only.
func playHeld(say func(...any)) {
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	say("names", os.Getenv("LISTEN_FDNAMES"), "own", os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()))
	for fd := 3; fd < 3+count; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			os.Exit(8)
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), "held"))
		if err != nil {
			say("cannot listen", err)
			os.Exit(8)
		}
		say("at", l.Addr(), "nonblocking", flags&unix.O_NONBLOCK != 0)
		if os.Getenv("ADDR") == "shrink" && unix.Listen(fd, 0) != nil {
			os.Exit(7)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintln(conn, os.Getpid())
				_ = conn.Close()
			}
		}()
	}
	if os.Getenv("ADDR") == "shut down" {
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGUSR1)
		go func() {
			<-end
			for fd := 3; fd < 3+count; fd++ {
				_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			os.Exit(0)
		}()
	}
}

// playHolder is an agent that holds the sockets of ADDR for the role PLAYED, until
// it is killed. At SIGUSR1 it prepares a cold patch.
func playHolder(say func(...any)) {
	opts := Options{Command: []string{os.Args[0]}, Dir: ".", StateFile: "state", StopTimeout: time.Hour}
	opts.Env = map[string]string{"ROLE": os.Getenv("PLAYED"), "GORACE": os.Getenv("GORACE")}
	for address := range strings.FieldsSeq(os.Getenv("ADDR")) {
		opts.Sockets = append(opts.Sockets, Socket{Listen: address})
	}
	opts.Ready.Timeout = time.Minute
	s := New(opts, hclog.NewNullLogger())
	go func() { _ = s.Run(context.Background()) }()
	if s.Start(context.Background(), nil) != nil {
		os.Exit(6)
	}
	prepare := make(chan os.Signal, 1)
	signal.Notify(prepare, syscall.SIGUSR1)
	go func() {
		<-prepare
		s.Prepare(context.Background())
		_ = s.ask(context.Background(), func() error { say("prepared", s.standby.copy.cmd.Process.Pid); return nil })
	}()
}

// client is told by whom it is served; it waits for that.
func client(network, address string) (pid int, err error) {
	conn, err := net.DialTimeout(network, address, 30*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return served(conn)
}

func served(conn net.Conn) (pid int, err error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// holding is a stage whose process serves on a TCP and a unix socket.
func holding(t *testing.T) *stage {
	t.Helper()
	st := newStage(t, "held")
	st.opts.Sockets = []Socket{{Listen: "tcp:" + freeAddress(t), Name: "http"}, {Listen: "unix:" + shortPath(t), Name: "local"}}
	return st
}

// shortPath fits into the address of a unix socket.
func shortPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "held")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// endpoints are the sockets as a client sees them.
func (st *stage) endpoints() [][2]string {
	st.t.Helper()
	var all [][2]string
	for _, s := range st.opts.Sockets {
		network, address, err := endpoint(s.Listen)
		if err != nil {
			st.t.Fatal(err)
		}
		all = append(all, [2]string{network, address})
	}
	return all
}

// mustServe sees to it that every socket is served by the running process.
func (st *stage) mustServe() {
	st.t.Helper()
	for _, e := range st.endpoints() {
		if pid, err := client(e[0], e[1]); err != nil || pid != st.s.Status().PID {
			st.t.Errorf("%s: served by %d, %v; the process is %d", e, pid, err, st.s.Status().PID)
		}
	}
}

// mustWait sees to it that of each socket as many clients can wait as will while
// between is done, and that they are served in the end.
func (st *stage) mustWait(clients int, between func()) {
	st.t.Helper()
	var all []net.Conn
	for _, e := range st.endpoints() {
		for range clients {
			conn, err := net.DialTimeout(e[0], e[1], 20*time.Second)
			if err != nil {
				st.t.Fatalf("a client of %s did not even get in: %v", e, err)
			}
			defer conn.Close()
			all = append(all, conn)
		}
	}
	between()
	for _, conn := range all {
		if pid, err := served(conn); err != nil || pid != st.s.Status().PID {
			st.t.Fatalf("a client of %s that has waited: served by %d, %v; the process is %d", conn.RemoteAddr(), pid, err, st.s.Status().PID)
		}
	}
}

func fileOf(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// What a process is handed is as it is told.
func TestSocketsAreHandedOver(t *testing.T) {
	st := newStage(t, "held")
	path := shortPath(t)
	st.opts.Sockets = []Socket{{Listen: "tcp:127.0.0.1:0", Name: "http"}, {Listen: "unix:" + path, Nonblocking: true, Name: "local"}}
	want := []string{`names http:local(:unknown)? own true`, `at 127\.0\.0\.1:[1-9][0-9]* nonblocking false`, `at ` + regexp.QuoteMeta(path) + ` nonblocking true`}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = l.Close()
		st.opts.Sockets = append(st.opts.Sockets, Socket{Listen: "tcp:[::1]:0"})
		want = append(want, `at \[::1\]:[1-9][0-9]* nonblocking false`)
	}
	s := st.start()
	for range 2 {
		for _, line := range want {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(st.said()) {
				t.Errorf("not %s: %q", line, st.said())
			}
		}
		// A second process is told the same, although the first has made them nonblocking.
		if err := errors.Join(s.Stop(t.Context()), os.Remove(filepath.Join(st.dir, "said")), s.Start(t.Context(), nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the unix socket is still there after the end")
	}
}

// Clients that come while the process is away wait for the next one: in a cold patch,
// prepared or not, and after a crash.
func TestClientsWait(t *testing.T) {
	st := holding(t)
	s := st.start()
	st.mustServe()
	inode := fileOf(t, st.endpoints()[1][1])
	for _, prepared := range []bool{false, true} {
		if prepared {
			s.Prepare(t.Context())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		st.mustWait(3, func() {
			if err := s.Start(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		})
	}
	pid := s.Status().PID
	if err := signalTo(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st.mustWait(3, func() {
		eventually(t, "another one", func() bool { return s.Up() && s.Status().PID != pid })
	})
	if !os.SameFile(inode, fileOf(t, st.endpoints()[1][1])) {
		t.Error("the unix socket is another")
	}
}

// A process that shuts its sockets down, or shortens their queues, does so for all
// that have them.
func TestSocketsAreRepaired(t *testing.T) {
	t.Run("shut down", func(t *testing.T) {
		st := holding(t)
		st.opts.Env["ADDR"], st.opts.StopSignal = "shut down", syscall.SIGUSR1
		s := st.start()
		for range 2 {
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			st.mustWait(3, func() {
				if err := s.Start(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			})
			st.mustServe()
		}
	})
	t.Run("shortened", func(t *testing.T) {
		st := holding(t)
		st.opts.Env["ADDR"] = "shrink"
		s := st.start()
		pid := s.Status().PID
		if err := signalTo(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = signalTo(pid, syscall.SIGCONT) }()
		st.mustWait(100, func() { _ = signalTo(pid, syscall.SIGCONT) })
	})
	t.Run("removed", func(t *testing.T) {
		st := holding(t)
		s := st.start()
		if err := os.Remove(st.endpoints()[1][1]); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Stop(t.Context()), s.Start(t.Context(), nil)); err != nil {
			t.Fatal(err)
		}
		st.mustServe()
	})
}

// The same address keeps its socket, whatever else changes.
func TestSocketsChange(t *testing.T) {
	st := holding(t)
	s := st.start()
	before := st.endpoints()
	gone, kept := before[0], before[1]
	inode := fileOf(t, kept[1])
	st.opts.Sockets = []Socket{{Listen: "unix:" + kept[1], Name: "renamed", Mode: 0o604}, {Listen: "tcp:" + freeAddress(t)}}
	s.Configure(st.opts)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustBeTaken(t, gone[1])
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	st.mustServe()
	mustBeFree(t, gone[1])
	if now := fileOf(t, kept[1]); !os.SameFile(inode, now) || now.Mode().Perm() != 0o604 {
		t.Errorf("%v, %v", now.Mode(), os.SameFile(inode, now))
	}
	if !strings.Contains(st.said(), "names renamed:unknown own true") {
		t.Errorf("%q", st.said())
	}
	st.opts.Sockets = st.opts.Sockets[1:]
	s.Configure(st.opts)
	if err := errors.Join(s.Stop(t.Context()), s.Start(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(kept[1]); err == nil {
		t.Error("a unix socket that is not wanted any more is still there")
	}
}

func mustBeTaken(t *testing.T, address string) {
	t.Helper()
	if l, err := net.Listen("tcp", address); err == nil {
		_ = l.Close()
		t.Errorf("%s is free", address)
	}
}

func TestSocketCannotBeOpened(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	alive, file := shortPath(t), shortPath(t)
	other, err := net.Listen("unix", alive)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := strconv.Itoa(os.Getpid())
	for listen, says := range map[string]string{
		"tcp:" + listener.Addr().String():         "address already in use; it is held by .*, pid " + own,
		"unix:" + alive:                           "somebody listens on " + alive + " \\(.*, pid " + own + "\\)",
		"unix:" + file:                            "there is something else at " + file,
		"unix:" + file + strings.Repeat("x", 107): "longer than 107 bytes",
		"unix:relative":                           "absolute path",
		"tcp:8080":                                "is not tcp:host:port",
		"udp:127.0.0.1:1":                         "neither tcp",
	} {
		st := newStage(t, "held")
		st.opts.Sockets = []Socket{{Listen: listen}}
		err := st.run().Start(t.Context(), nil)
		if !errors.Is(err, ErrStartFailed) || !regexp.MustCompile("target.socket "+regexp.QuoteMeta(listen)+".*"+says).MatchString(err.Error()) {
			t.Errorf("%s: %v", listen, err)
		}
		_ = st.end()
	}
	if fileOf(t, file).Mode().Type() != 0 || fileOf(t, alive).Mode().Type() != os.ModeSocket {
		t.Error("what was there is gone")
	}
}

func TestUnixSocketIsForItsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run a process as somebody else")
	}
	nobody, err := credentialOf("nobody")
	if err != nil {
		t.Fatal(err)
	}
	st := newStage(t, "held")
	for _, dir := range []string{st.dir, filepath.Dir(st.dir)} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	st.opts.Command, st.opts.Dir, st.opts.User = []string{"sleep", "1000"}, "/", "nobody"
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	plain, set := shortPath(t), shortPath(t)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: plain, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	st.opts.Sockets = []Socket{{Listen: "unix:" + plain}, {Listen: "unix:" + set, Mode: 0o622, User: "daemon"}}
	st.start()
	for path, want := range map[string]owner{plain: {int(nobody.Uid), int(nobody.Gid), socketMode}, set: {1, 1, 0o622}} {
		info := fileOf(t, path)
		st := info.Sys().(*syscall.Stat_t)
		if got := (owner{int(st.Uid), int(st.Gid), info.Mode().Perm()}); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	// A link in the place of the socket is not followed.
	link := shortPath(t)
	if err := os.Symlink(plain, link); err != nil {
		t.Fatal(err)
	}
	if err := (owner{0, 0, 0o777}).set(link); err == nil || fileOf(t, plain).Mode().Perm() != socketMode {
		t.Errorf("%v, %v", err, fileOf(t, plain).Mode())
	}
}

// The next agent gets the sockets back from the process that it takes over, and they
// are held on: nobody is refused in its cold patch either, nor when that process ends.
func TestSocketsAreTakenBack(t *testing.T) {
	if scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil && !bytes.HasPrefix(scope, []byte("0")) && os.Getuid() != 0 {
		t.Skip("this system lets nobody but root look into a process that is no child")
	}
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			st := holding(t)
			left := killedHolder(t, st)
			inode := fileOf(t, st.endpoints()[1][1])
			s := st.adopt()
			if s.Status().PID != left {
				t.Fatalf("%+v", s.Status())
			}
			st.mustServe()
			if how == "stop" {
				if err := s.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else if err := signalTo(left, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "its end", func() bool { return s.Status().State == Stopped })
			st.mustWait(3, func() {
				if err := s.Start(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			})
			if !os.SameFile(inode, fileOf(t, st.endpoints()[1][1])) {
				t.Error("the unix socket is another")
			}
		})
	}
}

// killedHolder runs an agent that holds the sockets, kills it, and returns the pid of
// its process.
func killedHolder(t *testing.T, st *stage) int {
	t.Helper()
	agent, pid := holder(t, st)
	kill(t, agent.cmd)
	if !alive(pid) {
		t.Fatal("the process ended with its agent")
	}
	return pid
}

// A keeper is a service manager's store.
type keeper struct {
	mu   sync.Mutex
	kept map[string]int
}

func (k *keeper) Keep(name string, socket *os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(name)
	fd, err := unix.FcntlInt(socket.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	k.kept[name] = fd
	return err
}

func (k *keeper) Forget(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(name)
	return nil
}

func (k *keeper) forget(name string) {
	if fd, ok := k.kept[name]; ok {
		_ = unix.Close(fd)
		delete(k.kept, name)
	}
}

// left is what a next agent is started with.
func (k *keeper) left(t *testing.T) (all []Inherited) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, fd := range k.kept {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Inherited{name, fd})
	}
	return all
}

// Sockets outlive both the agent and the process where somebody keeps them.
func TestSocketsAreKept(t *testing.T) {
	st := holding(t)
	k := &keeper{kept: map[string]int{}}
	defer func() {
		for name := range k.kept {
			k.forget(name)
		}
	}()
	s := New(st.opts, hclog.NewNullLogger())
	s.KeepSockets(k, nil)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	left := s.Status().PID
	s.Release() // as if it were killed
	if err := errors.Join(<-ended, signalTo(left, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	ends(t, left)
	if len(k.kept) != 2 {
		t.Fatalf("%v", k.kept)
	}
	inode := fileOf(t, st.endpoints()[1][1])
	unwanted, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := unwanted.(*net.TCPListener).File()
	_ = unwanted.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Keep(keptPrefix+"unwanted", f), f.Close()); err != nil {
		t.Fatal(err)
	}
	st.mustWaitWith(k, func() {
		eventually(t, "the process", st.s.Up)
		if !os.SameFile(inode, fileOf(t, st.endpoints()[1][1])) {
			t.Error("the unix socket is another")
		}
	})
	if _, still := k.kept[keptPrefix+"unwanted"]; still {
		t.Error("a socket that nobody wants is kept on")
	}
	mustBeFree(t, unwanted.Addr().String())
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if names := slices.Collect(maps.Keys(k.kept)); len(names) != 1 || !strings.HasPrefix(names[0], keptPrefix+"tcp_") {
		t.Errorf("kept after the end: %v", names)
	}
}

// mustWaitWith has clients wait before there is even an agent.
func (st *stage) mustWaitWith(k *keeper, after func()) {
	st.t.Helper()
	left := k.left(st.t)
	st.s = New(st.opts, hclog.NewNullLogger())
	st.s.KeepSockets(k, left)
	st.mustWait(3, func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- st.s.Run(ctx) }()
		st.end = sync.OnceValue(func() error { cancel(); return <-ended })
		st.t.Cleanup(func() { _ = st.end() })
		if err := st.s.Adopt(st.t.Context()); err != nil {
			st.t.Fatal(err)
		}
		st.s.Resume()
		after()
	})
}

func TestEndpoint(t *testing.T) {
	for listen, got := range map[string]string{
		"tcp:127.0.0.1:80": "127.0.0.1:80", "tcp::80": "0.0.0.0:80 [::]:80", "tcp:[::1]:80": "[::1]:80", "tcp:0.0.0.0:80": "0.0.0.0:80",
		"tcp:[::]:80": "[::]:80", "tcp:localhost:http": "127.0.0.1:80",
	} {
		_, address, err := endpoint(listen)
		if err != nil {
			t.Error(err)
		}
		for _, other := range []string{"127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "127.0.0.1:81"} {
			at, err := net.ResolveTCPAddr("tcp", other)
			if err != nil {
				t.Fatal(err)
			}
			if want := slices.Contains(strings.Fields(got), other); sameAddress(address, at) != want {
				t.Errorf("%s and %s: same is %v", listen, other, !want)
			}
		}
	}
	name := Socket{Listen: "tcp:[::1]:80\n" + strings.Repeat("x", 300)}.keptName()
	if strings.ContainsAny(name, ":\n") || len(name) > 255 {
		t.Error(name)
	}
}
