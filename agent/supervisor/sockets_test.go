//go:build linux

package supervisor

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
