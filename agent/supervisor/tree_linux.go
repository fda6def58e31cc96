package supervisor

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tree is all that one start of the process has brought about.
//
// Where it has a cgroup of its own that says what belongs to it. Elsewhere a process
// does that is in the group that was made for the start, has its mark in its
// environment, was started by one that belongs to it and still lives, or is in the
// session of one that did. So what has gone into the background by a double fork is
// found too. One that has no other way to be told from a stranger is left alone.
type tree struct {
	leader, session int    // of the process group
	start           uint64 // of the leader
	invocation      string
	cgroup          string // its folder; "": none
	cgroupName      string

	mu     sync.Mutex
	seen   map[int]uint64 // members that were met, and when they were started
	missed error          // why a look at a process has failed that may be one; of members

	lineage lineage // is never killed
	spares  spares
}

func treeOf(r recorded) *tree {
	t := &tree{leader: r.Leader, start: r.LeaderStart, session: r.Session, invocation: r.Invocation,
		seen: map[int]uint64{}, lineage: lineageOf(os.Getpid())}
	if mayBeCgroup(r.Cgroup, r.Invocation) && isCgroup(r.Cgroup) {
		t.cgroup, t.cgroupName = r.Cgroup, cgroupName(r.Cgroup)
	}
	if t.leader <= 1 {
		t.leader, t.start = r.PID, r.Start
	}
	t.met(r.PID, r.Start)
	return t
}

// met takes down a member.
func (t *tree) met(pid int, start uint64) {
	if t.lineage.has(pid, start) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[pid] = start
}

const (
	// sweepTime bounds how long the members of a tree are killed until there is none. A
	// process that starts others without end can outrun that where there is no cgroup,
	// and one that hangs in the kernel does not go at all.
	sweepTime  = 3 * time.Second
	sweepPause = time.Millisecond
)

// kill kills what is left of a tree whose main process has ended, and says how many
// that were and which of them are still there after sweepTime; unseen is why there may be
// others. reserved says that the number of the group cannot belong to another: its leader
// is not collected yet. If the main process was not in the cgroup at its end, others may
// have left it, too.
func (t *tree) kill(main int, reserved bool) (killed int, left []int, unseen error) {
	t.spares.giveUp()
	if reserved {
		_ = killGroup(t.leader)
	}
	inside := t.around(main)
	if self, err := t.contains(os.Getpid()); t.cgroup != "" && err == nil && !self {
		if killed, left, err = killCgroup(t.cgroup); err == nil && inside {
			return killed, left, nil
		}
	}
	swept, more, unseen := t.sweep()
	return killed + swept, append(left, more...), unseen
}

// around says whether a process is in the cgroup of the tree.
func (t *tree) around(pid int) bool {
	in, err := t.contains(pid)
	return in && err == nil
}

func (t *tree) contains(pid int) (bool, error) {
	if t.cgroupName == "" {
		return false, nil
	}
	name, err := cgroupOf(pid)
	return strings.HasPrefix(name+"/", t.cgroupName+"/"), err
}

// sweep kills each member by itself until none is left. What they held, such as a
// port, is free then.
func (t *tree) sweep() (killed int, left []int, unseen error) {
	gone := map[int]bool{}
	for began := time.Now(); ; time.Sleep(sweepPause) {
		members, err := t.members()
		left = left[:0]
		for pid, fd := range members {
			if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
				gone[pid] = true
			}
			_ = unix.Close(fd)
			left = append(left, pid)
		}
		if err == nil && len(members) == 0 {
			return len(gone), nil, nil
		}
		if time.Since(began) > sweepTime {
			slices.Sort(left)
			return len(gone), left, err
		}
	}
}

// remember is for a process that is about to be stopped.
func (c *child) remember() {
	c.stopping.Store(true)
	c.tree.remember(c.pid)
}

// spare is for one that is not to be stopped any more.
func (c *child) spare() { c.stopping.Store(false) }

// remember takes down who belongs to the tree while its main process lives: those
// that only their descent tells of are found by that when it has ended.
func (t *tree) remember(main int) {
	if t.around(main) {
		return // the cgroup tells of all
	}
	t.spares.lend()
	members, _ := t.members()
	for _, fd := range members {
		_ = unix.Close(fd)
	}
	t.spares.keep()
}

// members opens the living processes of the tree. With an error, some of them may be
// missing.
func (t *tree) members() (map[int]int, error) {
	all, err := processes()
	delete(all, os.Getpid())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missed = err
	opened := map[int]int{}
	for pid, st := range t.among(all) {
		if t.lineage.has(pid, st.start) {
			continue
		}
		fd, err := openIf(pid, func(now procStat) bool { return now.start == st.start })
		if t.misses(err); err != nil {
			continue
		}
		if !t.confirmed(pid, st, all) || pidfdEnds(fd, 0) {
			_ = unix.Close(fd)
			continue
		}
		opened[pid] = fd
	}
	for pid := range opened {
		t.seen[pid] = all[pid].start
	}
	return opened, t.missed
}

// misses notes an error because of which a member may not be known as one. The caller
// holds mu.
func (t *tree) misses(err error) {
	if t.missed == nil && scarce(err) {
		t.missed = err
	}
}

// among are those that belong to the tree by themselves, and all that descends from
// them.
func (t *tree) among(all map[int]procStat) map[int]procStat {
	found := map[int]procStat{}
	below := map[int][]int{}
	var next []int
	for pid, st := range all {
		below[st.parent] = append(below[st.parent], pid)
		if t.marks(pid, st) {
			next = append(next, pid)
		}
	}
	for len(next) > 0 {
		pid := next[len(next)-1]
		next = next[:len(next)-1]
		if _, twice := found[pid]; !twice {
			found[pid] = all[pid]
			next = append(next, below[pid]...)
		}
	}
	return found
}

// confirmed says whether an open process belongs to the tree by itself, or its
// parent, when it was looked at, was who it was taken for. Numbers can have changed
// hands while all were listed.
func (t *tree) confirmed(pid int, st procStat, all map[int]procStat) bool {
	if t.marks(pid, st) {
		return true
	}
	now, err := statOf(pid)
	if t.misses(err); err != nil || now.parent != st.parent {
		return false
	}
	parent, err := statOf(st.parent)
	t.misses(err)
	return err == nil && parent.start == all[st.parent].start
}

// marks says whether a process belongs to the tree by what it has itself. A number
// of a group or a session is not given to a process as long as anybody is in it: if
// its leader is another, nobody of ours is. The caller holds mu.
func (t *tree) marks(pid int, st procStat) bool {
	if pid == os.Getpid() || t.lineage.has(pid, st.start) {
		return false
	}
	if start, ok := t.seen[pid]; ok && start == st.start {
		return true
	}
	if st.start < t.start {
		return false
	}
	if st.group == t.leader && st.session == t.session && !t.replaced(t.leader, t.start) {
		return true
	}
	if start, ok := t.seen[st.session]; ok && st.session != t.session && !t.replaced(st.session, start) {
		return true
	}
	if t.invocation == "" {
		return false
	}
	has, err := hasVariable(pid, invocationName+"="+t.invocation)
	t.misses(err)
	return has
}

// replaced says whether a number belongs to another process by now, or may.
func (t *tree) replaced(pid int, start uint64) bool {
	now, err := statOf(pid)
	t.misses(err)
	return scarce(err) || err == nil && now.start != start
}

// hasVariable says whether a process was started with the variable. It may have
// overwritten that, or be somebody else's.
func hasVariable(pid int, pair string) (bool, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(append([]byte{0}, data...), []byte("\x00"+pair+"\x00")), err
}

// mostAncestors bounds the way up from a process to one of the tree.
const mostAncestors = 256

// owns says whether a process belongs to the tree.
func (t *tree) owns(pid int) bool {
	if t.around(pid) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	self := os.Getpid()
	for range mostAncestors {
		st, err := statOf(pid)
		if err != nil || pid <= 1 || pid == self {
			return false
		}
		if t.marks(pid, st) {
			return true
		}
		pid = st.parent
	}
	return false
}
