package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// procStat is what tells processes apart, and belongs together.
type procStat struct {
	parent, group, session int
	start                  uint64
}

// statOf reads proc_pid_stat(5).
func statOf(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The name, in brackets, may hold anything; the fields after it count from 3.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const parentField, groupField, sessionField, startField = 4 - 3, 5 - 3, 6 - 3, 22 - 3
	if len(fields) <= startField {
		return procStat{}, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	parent, err1 := strconv.Atoi(string(fields[parentField]))
	group, err2 := strconv.Atoi(string(fields[groupField]))
	session, err3 := strconv.Atoi(string(fields[sessionField]))
	start, err4 := strconv.ParseUint(string(fields[startField]), 10, 64)
	return procStat{parent, group, session, start}, errors.Join(err1, err2, err3, err4)
}

// scarce says whether an error is about what this program can have, such as open files,
// and not about what it was to look at.
func scarce(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// processes are all that there are and that may be looked at; they come and go while
// they are listed. With an error, some of them may be missing.
func processes() (map[int]procStat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var missing error
	all := make(map[int]procStat, len(entries))
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		st, err := statOf(pid)
		switch {
		case err == nil:
			all[pid] = st
		case scarce(err):
			missing = err
		}
	}
	return all, missing
}

// bootID names what process numbers are counted in: the boot, and within it the
// container.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	if self, err := os.Readlink("/proc/self"); err == nil && self != strconv.Itoa(os.Getpid()) {
		return "", errors.New("/proc is that of another pid namespace, whose numbers are not those of this one; mount one for it (unshare --mount-proc)")
	}
	boot := strings.TrimSpace(string(data))
	if space, err := os.Readlink("/proc/self/ns/pid"); err == nil {
		boot += " " + space
	}
	return boot, nil
}

// identify makes the record of a process that cannot go away meanwhile.
func identify(pid int) (recorded, error) {
	st, err := statOf(pid)
	if err != nil {
		return recorded{}, err
	}
	boot, err := bootID()
	return recorded{PID: pid, Start: st.start, Boot: boot, Session: st.session}, err
}

// startedAt is when a process was started that statOf says it of.
func startedAt(ticks uint64) time.Time {
	const perSecond = 100 // USER_HZ, the same on every architecture that Go knows
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Now()
	}
	age := time.Duration(now.Nano()) - time.Duration(ticks)*(time.Second/perSecond)
	return time.Now().Add(-max(0, age))
}

// openIf opens a process if it is the right one; what is open cannot become
// another. The error is ESRCH only if there is no such process.
func openIf(pid int, right func(procStat) bool) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = unix.ESRCH // the number is that of a thread
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	st, err := statOf(pid)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !right(st):
		err = unix.ESRCH
	case err == nil:
		return fd, nil
	}
	_ = unix.Close(fd)
	return -1, err
}

// pidfdEnds waits until the process has ended, at most for timeout; less than 0 is
// for ever.
func pidfdEnds(fd int, timeout time.Duration) bool {
	end := time.Now().Add(timeout)
	for {
		left := -1
		if timeout >= 0 {
			left = int(max(0, time.Until(end).Milliseconds()))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, left)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}
