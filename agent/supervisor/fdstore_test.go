//go:build linux

package supervisor

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the process gives away to be kept the next one finds.
func TestStoreOfDescriptors(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	address := freeAddress(t)
	st.opts.Env["ADDR"] = address
	s := st.start()
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	st.tell("keep http")
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address) // it waits in the backlog meanwhile
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	pid := s.Status().PID
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for _, want := range []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=http", fmt.Sprintf("LISTEN_PID=%d", pid)} {
		if err != nil || !strings.Contains(string(data), "\x00"+want+"\x00") {
			t.Errorf("%v: it has not %s: %q", err, want, data)
		}
	}
	if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", pid)); err != nil || !strings.HasPrefix(target, "socket:") {
		t.Errorf("%v, %s", err, target)
	}
	eventually(t, "the process", func() bool { return strings.Count(st.said(), "up\n") == 2 })
	st.tell("FDSTOREREMOVE=1;FDNAME=other|FDSTOREREMOVE=1")
	if files, _ := s.stored(); len(files) != 1 {
		t.Errorf("%d are left", len(files))
	}
	st.tell("FDSTOREREMOVE=1;FDNAME=http")
	if files, _ := s.stored(); len(files) != 0 {
		t.Errorf("%d are left", len(files))
	}
}

func TestStore(t *testing.T) {
	var s store
	defer s.empty()
	dup := func(f *os.File) int {
		t.Helper()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	held := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.kept) }
	one, two := open(), open()
	if over := s.add([]int{dup(one), dup(one), dup(two)}, "a", true); over != 0 || held() != 2 {
		t.Errorf("%d over, %d kept", over, held())
	}
	// Pipes whose other end is closed.
	var writers []*os.File
	for _, poll := range []bool{true, false} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
		s.add([]int{dup(r)}, "pipe", poll)
		_ = r.Close()
	}
	if s.prune(); held() != 4 {
		t.Errorf("%d kept", held())
	}
	for _, w := range writers {
		_ = w.Close()
	}
	if s.prune(); held() != 3 {
		t.Errorf("%d kept", held())
	}
	s.remove("pipe")
	for range maxStored - 2 {
		if s.add([]int{dup(open())}, "b", true) != 0 {
			t.Fatal("refused too early")
		}
	}
	if over := s.add([]int{dup(open()), dup(one), dup(open())}, "b", true); over != 2 || held() != maxStored {
		t.Errorf("%d over, %d kept", over, held())
	}
	// Where there is no kcmp.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	defer a.Close()
	defer b.Close()
	// The agent is not woken by what goes on in one that does not block.
	quiet := dup(a)
	if err := unix.SetNonblock(quiet, true); err != nil {
		t.Fatal(err)
	}
	s.empty()
	if over := s.add([]int{quiet}, "quiet", true); over != 0 {
		t.Fatal("refused")
	}
	if fd := int(s.kept[0].file.Fd()); polled(t, fd) {
		t.Errorf("descriptor %d is polled", fd)
	}
	if on, err := unix.FcntlInt(a.Fd(), unix.F_GETFL, 0); err != nil || on&unix.O_NONBLOCK == 0 {
		t.Errorf("it blocks now: %v", err)
	}
	again := dup(a)
	defer unix.Close(again)
	if !sameSocket(pair[0], again) || sameSocket(pair[0], pair[1]) || sameSocket(int(one.Fd()), int(one.Fd())) {
		t.Error("sockets are not told apart")
	}
}

// polled says whether a descriptor is in an epoll instance of this process.
func polled(t *testing.T, fd int) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target != "anon_inode:[eventpoll]" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(info), fmt.Sprintf("tfd: %8d ", fd)) {
			return true
		}
	}
	return false
}
