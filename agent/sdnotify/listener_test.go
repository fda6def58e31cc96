//go:build linux

package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary also sends: what SEND says, to the socket in NOTIFY_SOCKET.
func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv("SEND"); ok {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
		if err == nil {
			_, err = conn.Write([]byte(text))
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// manager is a listener with what it was told.
type manager struct {
	*Listener
	t       *testing.T
	mu      sync.Mutex
	got     []*Received
	refused []string
	taken   []int
}

// listen serves until the end of the test. What says TAKE as its status has its
// descriptors taken.
func listen(t *testing.T) *manager {
	t.Helper()
	return listenHeld(t, nil)
}

// listenHeld handles nothing until hold is closed.
func listenHeld(t *testing.T, hold chan struct{}) *manager {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "notify"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{Listener: l, t: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Serve(func(r *Received) {
			if hold != nil {
				<-hold
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.got = append(m.got, r)
			if r.Status != nil && *r.Status == "TAKE" {
				m.taken = append(m.taken, r.Take()...)
			}
		}, func(_ Sender, err error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.refused = append(m.refused, err.Error())
		})
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-done
		for _, fd := range m.taken {
			_ = unix.Close(fd)
		}
	})
	return m
}

// send sends with descriptors, as this process.
func (m *manager) send(text string, fds ...int) {
	m.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = m.sendFrom(fd, text, fds...)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *manager) sendFrom(fd int, text string, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(fd, []byte(text), rights, &unix.SockaddrUnix{Name: m.Path()}, 0)
}

// said waits until all that was sent is handled, and returns what was heard.
func (m *manager) said() (got []*Received, refused []string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got, m.refused
}

// pipe returns the number of one end, and a function that waits until nobody has it
// open any more; its own copy is closed then.
func pipe(t *testing.T) (fd int, closed func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return int(w.Fd()), func() {
		t.Helper()
		_ = w.Close()
		if err := r.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the descriptor is still open: %v", err)
		}
	}
}

func TestReceive(t *testing.T) {
	m := listen(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SEND=READY=1\nSTATUS=hello", "NOTIFY_SOCKET="+m.Path())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before := time.Now()
	fd, closed := pipe(t)
	m.send("STATUS=TAKE", fd)
	got, refused := m.said()
	if len(got) != 2 || len(refused) != 0 {
		t.Fatalf("%d messages, refused %q", len(got), refused)
	}
	// The sender is known although it has gone.
	if r := got[0]; r.State != Ready || *r.Status != "hello" || r.PID != cmd.Process.Pid || r.UID != os.Getuid() || r.GID != os.Getgid() || r.FDs() != 0 {
		t.Errorf("%+v", r)
	}
	if r := got[1]; r.PID != os.Getpid() || r.At.Before(before) || len(m.taken) != 1 || r.FDs() != 0 {
		t.Errorf("%+v, taken %v", r, m.taken)
	}
	flags, err := unix.FcntlInt(uintptr(m.taken[0]), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("%d, %v", flags, err)
	}
	_ = unix.Close(m.taken[0])
	m.taken = nil
	closed()
}

// Whatever is wrong with a message, its descriptors do not stay open.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text, says string
		fds        int
	}{
		"not taken":                     {"READY=1", "", 1},
		"no text":                       {"", "empty", 1},
		"a NUL":                         {"READY=1\x00X", "NUL", 2},
		"too long":                      {"READY=1\n" + strings.Repeat("x", MaxMessage), "longer", 1},
		"many":                          {"READY=1", "", MaxFDs},
		"a barrier with too many":       {"BARRIER=1", "", 2},
		"a barrier and something else":  {"BARRIER=1\nREADY=1", "", 1},
		"a barrier beside a descriptor": {"FDSTORE=1\nBARRIER=1", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := listen(t)
			fd, closed := pipe(t)
			fds := make([]int, c.fds)
			for i := range fds {
				fds[i] = fd
			}
			m.send(c.text, fds...)
			got, refused := m.said()
			if c.says == "" && len(refused) > 0 || c.says != "" && (len(refused) != 1 || !strings.Contains(refused[0], c.says) || len(got) > 0) {
				t.Errorf("%d messages, refused %q", len(got), refused)
			}
			if strings.Contains(c.text, "BARRIER") && len(got) > 0 {
				t.Errorf("a barrier was handed on: %+v", got[0])
			}
			closed()
			m.send("STATUS=next")
			if got, _ := m.said(); len(got) == 0 || *got[len(got)-1].Status != "next" {
				t.Error("nothing is heard any more")
			}
		})
	}
}

// A process that has no room for more descriptors refuses the message and goes on.
func TestNoRoomForDescriptors(t *testing.T) {
	m := listen(t)
	m.send("READY=1")
	m.said()
	fd, closed := pipe(t)
	from, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(from)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3 // the numbers that are free are higher
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	sendErr := m.sendFrom(from, "FDSTORE=1", fd)
	late := time.Now().Add(2 * time.Minute)
	refused := func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.refused) > 0 }
	for !refused() && time.Now().Before(late) {
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(sendErr, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)); err != nil {
		t.Fatal(err)
	}
	if got, refused := m.said(); len(got) != 1 || len(refused) != 1 || !strings.Contains(refused[0], "cut off") {
		t.Errorf("%d messages, refused %q", len(got), refused)
	}
	closed()
}

// A barrier is over when all that came before is handled, and not earlier.
func TestBarrier(t *testing.T) {
	hold := make(chan struct{})
	m := listenHeld(t, hold)
	fd, closed := pipe(t)
	m.send("STATUS=slow")
	m.send("BARRIER=1\n", fd)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a flush did not wait: %v", err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(poll, 0); err != nil || poll[0].Revents&unix.POLLERR != 0 {
		t.Errorf("the barrier is over: %v", err)
	}
	close(hold)
	closed()
	if got, _ := m.said(); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
}

// A sender that says more than the kernel keeps goes on as fast as it is read.
func TestNobodyBlocks(t *testing.T) {
	m := listen(t)
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.Path(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	const many = 2000
	for i := range many {
		if _, err := fmt.Fprintf(conn, "STATUS=%d", i); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	got, _ := m.said()
	for i, r := range got {
		if *r.Status != fmt.Sprint(i) {
			t.Fatalf("message %d says %s", i, *r.Status)
		}
	}
	if len(got) != many {
		t.Errorf("%d messages", len(got))
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := filepath.Join(dir, "notify")
	left, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Leave(); err != nil { // as a killed one does
		t.Fatal(err)
	}
	l, err := Listen(path, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o777 || l.Path() != path {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	next, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of the next one is gone with the first one: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := next.Flush(ctx); err == nil {
		t.Error("a flush after the end")
	}
	next.Serve(nil, nil) // returns
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"no socket": path, "not absolute": "notify", "no folder": filepath.Join(dir, "no/notify"), "longer": "/" + strings.Repeat("x", MaxPath),
	} {
		if l, err := Listen(bad, 0o600); err == nil || !strings.Contains(err.Error(), name) && name != "no folder" {
			t.Errorf("%s: %v", name, err)
			_ = l.Close()
		}
	}
	longest := filepath.Join(dir, strings.Repeat("x", MaxPath-len(dir)-1))
	if l, err := Listen(longest, 0o600); err != nil {
		t.Error(err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever user a service is can send where the mode says so.
func TestOtherUserSends(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	if _, err := exec.LookPath("systemd-notify"); err != nil {
		t.Skip("systemd-notify is not installed")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "sdnotify-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "notify"), 0o777)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var got []*Received
	go func() {
		defer close(done)
		l.Serve(func(r *Received) { got = append(got, r) }, func(_ Sender, err error) { t.Error(err) })
	}()
	// It sends a barrier after it, and waits for that.
	cmd := exec.Command("systemd-notify", "--ready", "--status=from nobody")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+l.Path())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	_ = l.Close()
	<-done
	if err != nil || len(got) != 1 || got[0].State != Ready || got[0].UID != nobody || got[0].PID != cmd.Process.Pid || *got[0].Status != "from nobody" {
		t.Errorf("%v: %s, %+v", err, out, got)
	}
}
