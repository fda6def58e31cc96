//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"patchagent/agent/supervisor"
)

// serviceManager is one that starts an agent: it hears what that says, and stores
// what it is given.
type serviceManager struct {
	t      *testing.T
	socket string

	mu     sync.Mutex
	heard  []string
	stored map[string]int
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "manager") // its name has to fit into an address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &serviceManager{t: t, socket: filepath.Join(dir, "notify"), stored: map[string]int{}}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { m.read(conn) })
	t.Cleanup(func() {
		_ = conn.Close()
		reading.Wait()
		for _, fd := range m.stored {
			_ = unix.Close(fd)
		}
	})
	return m
}

func (m *serviceManager) read(conn *net.UnixConn) {
	buf, oob := make([]byte, 4096), make([]byte, 1024)
	for {
		n, rights, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(oob[:rights]); err == nil && len(messages) == 1 {
			fds, _ = unix.ParseUnixRights(&messages[0])
		}
		m.take(string(buf[:n]), fds)
	}
}

func (m *serviceManager) take(message string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = append(m.heard, message)
	_, name, _ := strings.Cut(message, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	if old, ok := m.stored[name]; ok && (len(fds) > 0 || strings.Contains(message, "FDSTOREREMOVE=1")) {
		_ = unix.Close(old)
		delete(m.stored, name)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		m.stored[name] = fd
	}
}

func (m *serviceManager) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.heard, "\n---\n")
}

func (m *serviceManager) names() (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.stored))
}

func (m *serviceManager) until(u *user, words string) {
	m.t.Helper()
	if !eventually(m.t.Context(), func() bool { return strings.Contains(m.said(), words) }) {
		m.t.Fatalf("nobody says %q:\n%s\n%s", words, m.said(), u.log.String())
	}
}

// start starts an agent with what is stored, and more, as systemd does.
func (m *serviceManager) start(u *user, more ...supervisor.Inherited) {
	m.t.Helper()
	m.mu.Lock()
	all := more
	for name, fd := range m.stored {
		all = append(all, supervisor.Inherited{Name: name, FD: fd})
	}
	m.heard = nil
	m.mu.Unlock()
	u.agent = exec.Command("sh", "-c", "export LISTEN_PID=$$; exec ./patchagent")
	var names []string
	for _, one := range all {
		fd, err := unix.FcntlInt(uintptr(one.FD), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			m.t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), one.Name)
		defer f.Close()
		u.agent.ExtraFiles = append(u.agent.ExtraFiles, f)
		names = append(names, one.Name)
	}
	u.agent.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.socket, "WATCHDOG_USEC=1000000", "LISTEN_FDS="+strconv.Itoa(len(all)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	u.agent.Dir, u.agent.Stderr = u.dir, &u.log
	if err := u.agent.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { u.stop() })
}

// An agent that a service manager has started tells it how it is, and gets its
// sockets back from it when nobody else has them any more.
func TestServiceManager(t *testing.T) {
	m := newServiceManager(t)
	u := newUser(t)
	socket := m.socket + "2"
	given, err := net.Listen("tcp", "127.0.0.1:0") // by a unit of its own
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	f, err := given.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	u.write("agent.toml", fmt.Sprintf(`region = "us-east-1"
build = 200
[target]
command = ["bin/app"]
[[target.socket]]
listen = "unix:%s"
[[target.socket]]
listen = "tcp:%s"
`, socket, given.Addr()))
	u.write("version", "one\n")
	byUnit := supervisor.Inherited{Name: "something.socket", FD: int(f.Fd())}
	m.start(u, byUnit)
	m.until(u, "READY=1")
	m.until(u, "STATUS=watching; build 200 is installed")
	m.until(u, "EXTEND_TIMEOUT_USEC=")
	if said := m.said(); strings.Index(said, "READY=1") < strings.Index(said, "EXTEND_TIMEOUT_USEC=") {
		t.Error(said)
	}
	if answer, err := askSocket(socket); err != nil || answer != "one" {
		t.Errorf("%q, %v", answer, err)
	}
	if answer, err := askTCP(given.Addr().String()); err != nil || answer != "one" {
		t.Errorf("%q, %v", answer, err)
	}
	if stored := m.names(); len(stored) != 1 { // the other one the manager has anyway
		t.Errorf("stored: %v", stored)
	}
	left := processOf(t, u)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", left))
	if err != nil || strings.Contains(string(data), "NOTIFY_SOCKET="+m.socket) || strings.Contains(string(data), "WATCHDOG") || strings.Contains(string(data), "something") {
		t.Errorf("%q, %v", data, err)
	}

	// Both are killed. Who comes then waits for the next one.
	inode, err := os.Stat(socket)
	if err := errors.Join(err, u.agent.Process.Kill(), signalTo(left, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	_ = u.agent.Wait()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("the manager has not kept it: %v", err)
	}
	defer conn.Close()
	u.write("version", "two\n")
	m.start(u, byUnit)
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "two\n" {
		t.Errorf("%q, %v\n%s", line, err, u.log.String())
	}
	if now, err := os.Stat(socket); err != nil || !os.SameFile(inode, now) {
		t.Errorf("the socket is another: %v", err)
	}
	m.until(u, "READY=1")
	log := u.stop()
	m.until(u, "STOPPING=1")
	if _, err := os.Lstat(socket); err == nil || len(m.names()) != 0 {
		t.Errorf("after the end: %v, stored %v", err, m.names())
	}
	if strings.Count(log, "a held socket was taken over") != 3 || strings.Contains(log, "cannot be held on to") {
		t.Error(log)
	}
}

// What is meant for another program is not taken.
func TestNotHandedOver(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("NOTIFY_SOCKET", "")
	if m := newManager(); len(m.left) != 0 || m.keeper() != nil || os.Getenv("LISTEN_FDS") != "" {
		t.Errorf("%+v", m)
	}
	for _, count := range []string{"", "x", "-1", "1000000"} {
		if got := handedOver(count, "a:b"); got != nil {
			t.Errorf("%q: %v", count, got)
		}
	}
}

func askTCP(address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// processOf is the pid of the user's service.
func processOf(t *testing.T, u *user) int {
	t.Helper()
	var pid int
	if !eventually(t.Context(), func() bool {
		n, _ := fmt.Sscanf(u.shell("cat .patchagent/process.json"), `{"pid":%d`, &pid)
		return n == 1
	}) {
		t.Fatal("there is none on record")
	}
	return pid
}
