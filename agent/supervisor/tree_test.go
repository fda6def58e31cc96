//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// treeVar is in the environment of all that the processes of a stage start, and of no
// other: so the tests find what survives, in a way that is not the supervisor's.
const treeVar = "TREE_OF"

// playTree is a process that starts others.
func playTree(role string, say func(...any)) {
	begin := func(role string, out *os.File) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "ROLE="+role)
		cmd.Stdout = out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: role != "plain"}
		if cmd.Start() != nil {
			os.Exit(7)
		}
		return cmd
	}
	switch role {
	case "daemons": // one that goes into the background and keeps its pipe
		_, w, err := os.Pipe()
		if err != nil {
			os.Exit(6)
		}
		_ = begin("between", w).Wait()
	case "between":
		cmd := begin("stubborn", os.Stdout)
		say("daemon", cmd.Process.Pid)
		os.Exit(0)
	case "crowd": // more and more of them, each in a session of its own
		cmd := exec.Command("sh", "-c", `i=0; while [ $i -lt 400 ]; do setsid sleep 1000 & i=$((i+1)); done; exec sleep 1000`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if cmd.Start() != nil {
			os.Exit(7)
		}
	case "pair":
		cmd := begin("plain", os.Stdout)
		say("second", cmd.Process.Pid)
		go func() { _ = cmd.Wait() }()
	}
}

// tree are the living processes that its processes have brought about.
func (st *stage) tree() (pids []int) {
	st.t.Helper()
	all, err := processes()
	if err != nil {
		st.t.Fatal(err)
	}
	for pid := range all {
		if has, _ := hasVariable(pid, treeVar+"="+st.dir); has && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// newTree is a stage for a role that starts others.
func newTree(t *testing.T, role string, cgroup bool) *stage {
	t.Helper()
	st := newStage(t, role)
	st.opts.Env[treeVar] = st.dir
	st.opts.noCgroup = !cgroup
	if m := newMark(st.opts); cgroup && m.cgroup == "" {
		t.Skip("no cgroup can be made below that of this process")
	} else {
		m.remove()
	}
	t.Cleanup(func() {
		for _, pid := range st.tree() {
			_ = signalTo(pid, syscall.SIGKILL)
		}
	})
	return st
}

// wants waits until so many processes of the tree are there.
func (st *stage) wants(n int) {
	st.t.Helper()
	eventually(st.t, "the tree", func() bool { return len(st.tree()) >= n })
}

// pidOf is the number that a puppet said after a word.
func (st *stage) pidOf(word string) (pid int) {
	st.t.Helper()
	eventually(st.t, word, func() bool {
		_, rest, _ := strings.Cut(st.said(), word+" ")
		line, _, whole := strings.Cut(rest, "\n")
		pid, _ = strconv.Atoi(line)
		return whole && pid > 0
	})
	return pid
}

// noCgroups waits until nothing lives in the cgroups of an agent, and removes what
// one that was killed could not.
func noCgroups(t *testing.T, stateFile string) {
	t.Helper()
	for _, dir := range cgroupsOf(t, stateFile) {
		eventually(t, "the end of what is in "+dir, func() bool {
			empty, err := cgroupEmpty(dir)
			return empty || err != nil
		})
		removeCgroup(dir)
	}
}

func cgroupsOf(t *testing.T, stateFile string) []string {
	t.Helper()
	own, _, err := ownCgroup()
	if err != nil {
		return nil
	}
	prefix, _ := cgroupPrefix(stateFile)
	left, err := filepath.Glob(filepath.Join(own, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// Whatever a process starts is gone when it has ended, in whichever way it does that,
// and whoever looks after it then.
func TestNothingSurvives(t *testing.T) {
	for _, c := range []struct {
		role   string
		grown  int // so many are there when the end begins
		cgroup bool
	}{{"daemons", 2, true}, {"daemons", 2, false}, {"crowd", 20, true}, {"crowd", 20, false}} {
		way := map[bool]string{true: "cgroup", false: "group"}[c.cgroup]
		check := func(t *testing.T, st *stage) {
			t.Helper()
			if left := st.tree(); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			if left := cgroupsOf(t, st.opts.StateFile); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		}
		begin := func(t *testing.T) (*stage, int) {
			t.Helper()
			st := newTree(t, c.role, c.cgroup)
			left := killed(t, st)
			st.wants(c.grown)
			return st, left
		}
		t.Run(c.role+", "+way+", stopped", func(t *testing.T) {
			st := newTree(t, c.role, c.cgroup)
			s := st.start()
			st.wants(c.grown)
			if in := readState(t, st).Cgroup != ""; in != c.cgroup {
				t.Errorf("in a cgroup: %v", in)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			check(t, st)
		})
		t.Run(c.role+", "+way+", ends by itself", func(t *testing.T) {
			st := newTree(t, c.role, c.cgroup)
			st.opts.Restart = Never
			s := st.start()
			st.wants(c.grown)
			if err := signalTo(s.Status().PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end", func() bool { return s.Status().State == Ended })
			check(t, st)
		})
		t.Run(c.role+", "+way+", taken over and stopped", func(t *testing.T) {
			st, _ := begin(t)
			if err := st.adopt().Stop(t.Context()); err != nil {
				t.Error(err)
			}
			check(t, st)
		})
		t.Run(c.role+", "+way+", ended after its agent", func(t *testing.T) {
			st, left := begin(t)
			if err := signalTo(left, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			ends(t, left)
			st.adopt()
			check(t, st)
		})
	}
}

// One that has gone into the background belongs to the process, as do the process and
// what it has started itself; others do not, however alike they are, and they live on.
func TestStrangersLive(t *testing.T) {
	for name, cgroup := range map[string]bool{"cgroup": true, "group": false} {
		t.Run(name, func(t *testing.T) {
			st := newTree(t, "daemons", cgroup)
			s := st.start()
			r := readState(t, st)
			daemon := st.pidOf("daemon")
			var strangers []int
			for _, like := range []*exec.Cmd{
				{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Env: []string{"X" + invocationName + "=" + r.Invocation, invocationName + "=" + r.Invocation + "0"}},
				{Path: "/bin/sleep", Args: []string{invocationName + "=" + r.Invocation, "1000"}, Env: []string{}},
				{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Dir: st.dir, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}},
				{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}},
			} {
				if err := like.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = like.Process.Kill(); _ = like.Wait() })
				strangers = append(strangers, like.Process.Pid)
			}
			// What a command leaves is not the process's.
			if _, err := RunCommand(t.Context(), st.opts.command([]string{"sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $! >left"}, []string{"LEFT=1"}, 0)); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(st.dir, "left"))
			if err != nil {
				t.Fatal(err)
			}
			left, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = signalTo(left, syscall.SIGKILL) })
			strangers = append(strangers, left)

			var c *child
			if err := s.ask(t.Context(), func() error { c = s.child; return nil }); err != nil {
				t.Fatal(err)
			}
			for _, pid := range []int{r.PID, daemon} {
				if !c.owns(pid) {
					t.Errorf("%d is not its own", pid)
				}
			}
			for _, pid := range append(strangers, os.Getpid(), 1) {
				if c.owns(pid) {
					t.Errorf("%d is its own", pid)
				}
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			for _, pid := range strangers {
				if !alive(pid) {
					t.Errorf("stranger %d has gone", pid)
				}
			}
			if alive(r.PID) || alive(daemon) {
				t.Error("one of its own is left")
			}
		})
	}
}

// The cgroups that the process makes below its own go with it.
func TestCgroupsBelow(t *testing.T) {
	st := newTree(t, "plain", true)
	s := st.start()
	dir := readState(t, st).Cgroup
	below := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := os.WriteFile(filepath.Join(below, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.ask(t.Context(), func() error {
		if !s.child.owns(cmd.Process.Pid) {
			t.Error("what is in a cgroup below is not its own")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	empty := dir + "-left" // by an agent that was killed
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil || alive(cmd.Process.Pid) {
		t.Errorf("after the stop %s is %v", dir, err)
	}
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if now := readState(t, st).Cgroup; now == dir || !slices.Equal(cgroupsOf(t, st.opts.StateFile), []string{now}) {
		t.Errorf("before %s, now %s; there are %v", dir, now, cgroupsOf(t, st.opts.StateFile))
	}
}

// Empty cgroups of an agent are removed also below one whose name has what systemd makes
// of a dash.
func TestLeftoversOfSystemd(t *testing.T) {
	newTree(t, "plain", true) // skips where there can be none
	own, _, err := ownCgroup()
	if err != nil {
		t.Fatal(err)
	}
	slice := filepath.Join(own, fmt.Sprintf(`left\x2d%d.slice`, os.Getpid()))
	defer removeCgroup(slice)
	for _, name := range []string{"", "patchagent-aa-1", "patchagent-bb-1"} {
		if err := os.Mkdir(filepath.Join(slice, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	removeLeftovers(slice, "patchagent-aa-")
	_, ours := os.Stat(filepath.Join(slice, "patchagent-aa-1"))
	_, theirs := os.Stat(filepath.Join(slice, "patchagent-bb-1"))
	if ours == nil || theirs != nil {
		t.Errorf("ours: %v, another agent's: %v", ours, theirs)
	}
}

// A process that goes into another cgroup has no way to leave anything behind either.
func TestGoesIntoAnotherCgroup(t *testing.T) {
	for name, end := range map[string]func(s *Supervisor) error{
		"stopped":        func(s *Supervisor) error { return s.Stop(t.Context()) },
		"ends by itself": func(s *Supervisor) error { return signalTo(s.Status().PID, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			st := newTree(t, "daemons", true)
			st.opts.Restart = Never
			s := st.start()
			eventually(t, "the daemon", func() bool { return strings.Count(st.said(), "up\n") == 2 })
			own, _, err := ownCgroup()
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range cgroupMembers(readState(t, st).Cgroup) {
				if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end", func() bool { return s.Status().PID == 0 })
			if left := st.tree(); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			if left := cgroupsOf(t, st.opts.StateFile); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

// Where a process may not be started in its cgroup it is moved there, and where that
// does not go either it does without.
func TestMovedIntoCgroup(t *testing.T) {
	st := newTree(t, "plain", true)
	start := func(m mark) *waiting {
		started := make(chan *waiting)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with what is forbidden to it
			if err := forbidClone3(); err != nil {
				t.Error(err)
			}
			w, err := startWaiting(nil, nil, nil, m)
			if err != nil {
				t.Error(err)
			}
			started <- w
		}()
		return <-started
	}
	w := start(newMark(st.opts))
	if w == nil {
		return
	}
	if members := cgroupMembers(w.mark.cgroup); w.mark.cgroup == "" || !slices.Contains(members, w.cmd.Process.Pid) {
		t.Errorf("%v in %s", members, w.mark.cgroup)
	}
	w.letGo()
	m := newMark(st.opts)
	m.remove()
	if w = start(m); w == nil || w.mark.cgroup != "" || !alive(w.cmd.Process.Pid) {
		t.Errorf("%+v", w)
	}
	w.letGo()
	if left := cgroupsOf(t, st.opts.StateFile); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// forbidClone3 does to this thread and what it starts what RestrictNamespaces= of
// systemd does.
func forbidClone3() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE3, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
