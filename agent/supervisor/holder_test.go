//go:build linux

package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
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
	conn, err := net.DialTimeout(network, address, 2*time.Minute)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return served(conn)
}

func served(conn net.Conn) (pid int, err error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
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
			conn, err := net.DialTimeout(e[0], e[1], 2*time.Minute)
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
