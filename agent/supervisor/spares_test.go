//go:build linux

package supervisor

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles bounds the numbers of descriptors of this process until the function that
// it returns is called.
func limitFiles(t *testing.T, to uint64) (restore func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: to, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &was, nil); err != nil {
			t.Error(err)
		}
	}
}

// useUpFiles leaves this process no descriptor until the function that it returns is
// called.
func useUpFiles(t *testing.T) (restore func()) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	highest := 0
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		highest = max(highest, fd)
	}
	lift := limitFiles(t, uint64(highest)+1)
	var used []int
	for {
		fd, err := unix.Open(os.DevNull, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		used = append(used, fd)
	}
	return func() {
		lift()
		for _, fd := range used {
			_ = unix.Close(fd)
		}
	}
}

// daemon starts a process that leaves one in the background.
func daemon(t *testing.T, cgroup bool) (*stage, *Supervisor) {
	t.Helper()
	st := newTree(t, "daemons", cgroup)
	s := st.start()
	eventually(t, "the daemon", func() bool { return strings.Count(st.said(), "up\n") == 2 })
	return st, s
}

// What the process leaves is killed also by an agent that has used up its descriptors.
func TestStopWithoutDescriptors(t *testing.T) {
	for way, cgroup := range map[string]bool{"cgroup": true, "no cgroup": false} {
		t.Run(way, func(t *testing.T) {
			st, s := daemon(t, cgroup)
			restore := useUpFiles(t)
			err := s.Stop(t.Context())
			restore()
			if left := st.tree(); err != nil || len(left) > 0 {
				t.Errorf("%v; %v are left", err, left)
			}
		})
	}
}

// Where nothing can be looked at, it is not said that nothing is left.
func TestStopThatCannotLook(t *testing.T) {
	_, s := daemon(t, false)
	if err := s.ask(t.Context(), func() error { s.child.tree.spares.giveUp(); return nil }); err != nil {
		t.Fatal(err)
	}
	restore := limitFiles(t, 0)
	err := s.Stop(t.Context())
	restore()
	if !errors.Is(err, ErrStopFailed) || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
}
