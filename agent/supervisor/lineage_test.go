//go:build linux

package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// None of these asks the kernel to signal anything.

func TestMayKillGroup(t *testing.T) {
	for leader, want := range map[int]bool{-1 << 31: false, -2: false, -1: false, 0: false, 1: false, 77: false, 78: true} {
		if got := mayKillGroup(leader, 77); got != want {
			t.Errorf("group %d: %v, want %v", leader, got, want)
		}
	}
}

func TestMayBeCgroup(t *testing.T) {
	mark := strings.Repeat("0123456789abcdef", 2)
	for dir, want := range map[string]bool{
		"/sys/fs/cgroup/patchagent-0a1b2c3d4e5f-" + mark: true,
		"/sys/fs/cgroup/a.slice/patchagent-4711-" + mark: true,
		"/sys/fs/cgroup":                     false,
		"/":                                  false,
		"":                                   false,
		"/sys/fs/cgroup/system.slice":        false,
		"/sys/fs/cgroup/" + mark:             false,
		"/sys/fs/cgroup/patchagent-" + mark:  false,
		"/sys/fs/cgroup/patchagent--" + mark: false,
		"/sys/fs/cgroup/patchagent-0a1b2c3d4e5f-" + mark + "/": false,
		"/sys/fs/cgroup/patchagent-0a1b-" + mark + "/..":       false,
		"/sys/fs/cgroup/x/../patchagent-0a1b-" + mark:          false,
		"patchagent-0a1b-" + mark:                              false,
		"/sys/fs/cgroup/patchagent-0a1b-" + mark[:31] + "0":    false,
	} {
		if got := mayBeCgroup(dir, mark); got != want {
			t.Errorf("%q: %v, want %v", dir, got, want)
		}
	}
	for _, other := range []string{"", "-", mark + "0", strings.ToUpper(mark), mark[:30] + ".."} {
		if mayBeCgroup("/sys/fs/cgroup/patchagent-0a1b-"+other, other) {
			t.Errorf("the mark %q counts", other)
		}
	}
	if dir := filepath.Join(t.TempDir(), "patchagent-0a1b-"+mark); os.Mkdir(dir, 0o700) != nil || isCgroup(dir) {
		t.Errorf("%s counts as a cgroup", dir)
	}
}

// What is on record may be anything: none of it makes a member of the first process, of
// the agent, or of what has started it.
func TestDamagedRecordsNameNobody(t *testing.T) {
	self, parent, first := os.Getpid(), os.Getppid(), 1
	stats := map[int]procStat{}
	for _, pid := range []int{self, parent, first} {
		st, err := statOf(pid)
		if err != nil {
			t.Fatal(err)
		}
		stats[pid] = st
	}
	for _, pid := range []int{self, parent, first, 0, -1} {
		for _, leader := range []int{self, parent, first, 0, -1} {
			r := recorded{PID: pid, Start: stats[pid].start, Leader: leader, LeaderStart: stats[leader].start,
				Session: stats[self].session, Cgroup: "/sys/fs/cgroup", Invocation: strings.Repeat("0", 32)}
			of := treeOf(r)
			if of.cgroup != "" {
				t.Errorf("%+v: the cgroup %s counts", r, of.cgroup)
			}
			for known, st := range stats {
				if of.marks(known, st) {
					t.Errorf("%+v: pid %d is marked", r, known)
				}
				if _, in := of.seen[known]; in {
					t.Errorf("%+v: pid %d is met", r, known)
				}
			}
		}
	}
	l := lineageOf(self)
	if !l.has(self, stats[self].start) || !l.has(parent, stats[parent].start) || !l.has(1, 0) || !l.has(0, 0) || !l.has(-1, 0) {
		t.Errorf("%v", l)
	}
	if l.has(self, stats[self].start+1) {
		t.Error("an earlier process of this number belongs to it")
	}
}

// A record that names the agent, or what has started it, is not acted upon; one that has
// only the number is, as numbers are given again.
func TestLineageIsNamed(t *testing.T) {
	l := lineage{77: 1000, 66: 900}
	for _, c := range []struct {
		r    recorded
		want bool
	}{
		{recorded{PID: 88, Start: 1000}, false},
		{recorded{PID: 88, Start: 1000, Leader: 87, LeaderStart: 1000}, false},
		{recorded{PID: 77, Start: 1000}, true},
		{recorded{PID: 66, Start: 900}, true},
		{recorded{PID: 77, Start: 999}, false},
		{recorded{PID: 88, Start: 1000, Leader: 66, LeaderStart: 900}, true},
		{recorded{PID: 88, Start: 1000, Leader: 66, LeaderStart: 901}, false},
		{recorded{PID: 88, Start: 1000, Leader: 1, LeaderStart: 7}, true},
		{recorded{PID: 88, Start: 1000, Leader: -1}, true},
		{recorded{PID: 1}, true},
		{recorded{PID: 0}, true},
		{recorded{PID: -1}, true},
	} {
		if got := l.isNamed(c.r); got != c.want {
			t.Errorf("%+v: %v, want %v", c.r, got, c.want)
		}
	}
}
