package supervisor

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// goneTime bounds the wait for killed members of a group to be gone.
const goneTime = time.Second

// awaitGroup returns when no living member of the group is left: what they held,
// such as a port, is free then. Ended ones may stay listed for long, where nobody
// asks for their status.
func awaitGroup(r recorded) {
	for began := time.Now(); time.Since(began) < goneTime; time.Sleep(time.Millisecond) {
		if errors.Is(unix.Kill(-r.PID, 0), unix.ESRCH) {
			return
		}
		members, err := membersOf(r)
		for _, fd := range members {
			_ = unix.Close(fd)
		}
		if err == nil && len(members) == 0 {
			return
		}
	}
}

// killMembers kills what a process that has ended left of its group, until
// nothing is, and says how many that were. Nobody keeps the number of the group
// reserved, so that it is never signalled as such, but each member by itself.
func killMembers(r recorded) int {
	killed := map[int]bool{}
	for began := time.Now(); time.Since(began) < goneTime; time.Sleep(time.Millisecond) {
		members, err := membersOf(r)
		for pid, fd := range members {
			if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
				killed[pid] = true
			}
			_ = unix.Close(fd)
		}
		if err == nil && len(members) == 0 {
			break
		}
	}
	return len(killed)
}

// membersOf opens the living members of the group that the ended process led.
// Once the number belongs to another process that group cannot have any: as long
// as it has, the kernel does not give the number away.
func membersOf(r recorded) (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	member := func(st procStat) bool { return st.group == r.PID && st.session == r.Session }
	members := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == r.PID {
			continue
		}
		if st, err := statOf(pid); err != nil || !member(st) {
			continue
		}
		fd, err := openIf(pid, member)
		if err != nil {
			continue
		}
		if pidfdEnds(fd, 0) {
			_ = unix.Close(fd)
			continue
		}
		members[pid] = fd
	}
	if st, err := statOf(r.PID); err == nil && st.start != r.Start {
		for _, fd := range members {
			_ = unix.Close(fd)
		}
		return nil, nil
	}
	return members, nil
}
