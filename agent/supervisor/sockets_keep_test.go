//go:build linux

package supervisor

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

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

// leave runs an agent whose sockets are kept, until it goes as if it were killed, and
// returns the pid of its process.
func (st *stage) leave(k *keeper) int {
	st.t.Helper()
	s := New(st.opts, hclog.NewNullLogger())
	s.KeepSockets(k, nil)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()
	if err := s.Start(st.t.Context(), nil); err != nil {
		st.t.Fatal(err)
	}
	left := s.Status().PID
	s.Release()
	if err := <-ended; err != nil {
		st.t.Fatal(err)
	}
	return left
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
	left := st.leave(k)
	if err := signalTo(left, syscall.SIGKILL); err != nil {
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

// What the manager keeps is also in a process that was left: it stays kept, and what
// the manager has made stays its own.
func TestKeptSocketsOfALivingProcess(t *testing.T) {
	st := holding(t)
	k := &keeper{kept: map[string]int{}}
	left := st.leave(k)
	inherited := k.left(t)
	for i := range inherited { // one of them comes from a socket unit
		if name := inherited[i].Name; !strings.HasPrefix(name, keptPrefix+"tcp_") {
			inherited[i].Name = "unit.socket"
			k.forget(name)
		}
	}
	st.s = New(st.opts, hclog.NewNullLogger())
	st.s.KeepSockets(k, inherited)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.s.Run(ctx) }()
	st.end = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = st.end() })
	if err := st.s.Adopt(t.Context()); err != nil || st.s.Status().PID != left {
		t.Fatal(st.s.Status(), err)
	}
	if err := st.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.mustWait(1, func() {
		if err := st.s.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	if names := slices.Collect(maps.Keys(k.kept)); len(names) != 1 || !strings.HasPrefix(names[0], keptPrefix+"tcp_") {
		t.Errorf("kept: %v", names)
	}
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(st.endpoints()[1][1]); err != nil {
		t.Errorf("the manager's own socket was removed: %v", err)
	}
	for name := range k.kept {
		k.forget(name)
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
