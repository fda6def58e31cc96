//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("SECRET", "s")
	st := newStage(t, "plain")
	st.opts.Env["MINE"] = "not \xff text"
	s := st.start()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for pair := range strings.SplitSeq(strings.Trim(string(data), "\x00"), "\x00") {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	for _, name := range names {
		if !slices.Contains(append(passed, "MINE", "ROLE", "GORACE", invocationName, "NOTIFY_SOCKET"), name) && !strings.HasPrefix(name, "LC_") {
			t.Errorf("the process has %s", name)
		}
	}
	if !strings.Contains(string(data), "MINE=not \xff text\x00") {
		t.Errorf("%q", data)
	}
	if strings.Contains(string(data), "NOTIFY_SOCKET=/run/x\x00") {
		t.Error("the process has the agent's own socket")
	}
	if !slices.Contains(names, "MINE") || !slices.Contains(names, "PATH") {
		t.Errorf("%v", names)
	}
}

// The process inherits what a child of the agent does: the way through the waiting
// copy, in which the Go runtime has its own ideas of limits and signals, leaves
// nothing behind.
func TestInheritance(t *testing.T) {
	st := newStage(t, "plain")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.Sigset_t
	blocked := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR1 - 1)}}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &old); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -Sn 333; trap '' TSTP WINCH; umask 027; exec "$0"`, st.opts.Command[0])
	cmd.Dir, cmd.Env = st.dir, append(os.Environ(), "ROLE=supervisor", "COMMAND=sleep 1000")
	cmd.ExtraFiles = []*os.File{os.Stderr, os.Stderr} // it need not know that it has them
	err := cmd.Start()
	if err := errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "the agent", func() bool { return strings.Contains(st.said(), "up\n") })
	var direct int
	if _, err := fmt.Sscanf(st.said(), "direct %d", &direct); err != nil {
		t.Fatal(err)
	}
	own := readState(t, st).PID
	t.Cleanup(func() { _, _ = signalTo(direct, syscall.SIGKILL), signalTo(own, syscall.SIGKILL) })
	var want map[string]string
	var diff string
	defer func() {
		if diff != "" {
			t.Errorf("direct and supervised differ:\n%s", diff)
		}
	}()
	// At first they have files open that they read themselves.
	eventually(t, "the same", func() bool {
		want = inherited(t, direct)
		diff = cmp.Diff(want, inherited(t, own))
		return diff == ""
	})
	for name, value := range map[string]string{"SigBlk": "0000000000000200", "Umask": "0027", "Max open files": "333 ", "file 3": "", "file 4": ""} {
		if got, ok := want[name]; !ok || !strings.HasPrefix(got, value) {
			t.Errorf("%s: %q is not what the test wanted to see", name, got)
		}
	}
}

// inherited is what stays with a process when it executes a program.
func inherited(t *testing.T, pid int) map[string]string {
	t.Helper()
	all := map[string]string{}
	status, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	limits, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	score, err3 := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	files, err4 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "Name", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Threads":
			all[name] = strings.TrimSpace(value)
		default:
			if strings.HasPrefix(name, "Cap") || strings.HasPrefix(name, "Sig") && name != "SigQ" {
				all[name] = strings.TrimSpace(value)
			}
		}
	}
	for line := range strings.Lines(string(limits)) {
		if len(line) > 26 {
			all[strings.TrimSpace(line[:26])] = line[26:]
		}
	}
	all["oom_score_adj"] = string(score)
	for _, f := range files {
		all["file "+f.Name()], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
	}
	return all
}

// The user may be kept out of the folder that the agent can enter.
func TestOtherUserHasItsOwnRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run a process as somebody else")
	}
	st := newStage(t, "plain")
	st.opts.User = "nobody"
	if err := os.Chmod(st.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := st.run().Start(t.Context(), nil)
	if !errors.Is(err, ErrStartFailed) || !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "chdir "+st.dir) {
		t.Errorf("%v", err)
	}
}

func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run a process as somebody else")
	}
	st := newStage(t, "plain")
	st.opts.Command = []string{"sleep", "1000"}
	st.opts.Dir = "/"
	st.opts.User = "nobody"
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	s := st.start()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	want, err := credentialOf("nobody")
	if err != nil {
		t.Fatal(err)
	}
	var groups []string
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Uid:":
			if fields[1] != fmt.Sprint(want.Uid) {
				t.Errorf("uid %s", fields[1])
			}
		case "Gid:":
			if fields[1] != fmt.Sprint(want.Gid) || fields[2] != fields[1] || fields[3] != fields[1] {
				t.Errorf("gid %s", fields[1:])
			}
		case "Groups:":
			groups = fields[1:]
		}
	}
	if len(groups) != len(want.Groups) || slices.Contains(groups, "0") {
		t.Errorf("groups %v, want %v", groups, want.Groups)
	}
}
