package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reopen opens the process on record. If it has ended there is none, and what it
// left of its tree is killed; it is an error if something survives that.
func reopen(r recorded) (c *child, killed int, err error) {
	boot, err := bootID()
	if err != nil || boot != r.Boot {
		return nil, 0, err
	}
	if lineageOf(os.Getpid()).isNamed(r) {
		return nil, 0, fmt.Errorf("the process on record, pid %d, is one that this agent was started by; start the agent from elsewhere, or correct the record", r.PID)
	}
	fd, err := openIf(r.PID, func(st procStat) bool { return st.start == r.Start })
	if err == nil && !settles(fd, r.PID) {
		_ = unix.Close(fd)
		err = unix.ESRCH
	}
	if errors.Is(err, unix.ESRCH) {
		killed, left, unseen := treeOf(r).kill(r.PID, false)
		switch {
		case unseen != nil:
			err = fmt.Errorf("what the ended process %d had started may be still there: %w", r.PID, unseen)
		case len(left) > 0:
			err = fmt.Errorf("what the ended process %d had started survives SIGKILL: %v", r.PID, left)
		default:
			err = nil
		}
		return nil, killed, err
	}
	if err != nil {
		return nil, 0, err
	}
	if c, err = newChild(r, fd, nil); err != nil {
		_ = unix.Close(fd)
		return nil, 0, err
	}
	c.started = startedAt(r.Start)
	go c.wait()
	return c, 0, nil
}

// settleTime is more than a copy that has its word can be kept waiting.
const settleTime = busyTime + time.Second

// settles says whether the process on record is one, and not a copy that has ended,
// or ends now, because its agent did. One that has its word becomes the process; a
// process in the middle of its end has no name any more.
func settles(fd, pid int) bool {
	var name string
	for began := time.Now(); time.Since(began) < settleTime; {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		name = strings.Trim(string(data), "\x00")
		if err == nil && name != "" && name != ExecName {
			return !pidfdEnds(fd, 0)
		}
		if pidfdEnds(fd, time.Millisecond) {
			return false
		}
	}
	if name == ExecName { // it hangs, and has not begun to be anything
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		return !pidfdEnds(fd, killTime)
	}
	return true
}
