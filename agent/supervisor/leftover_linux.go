package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recorded is the content of the state file. A number alone would not do: it may
// belong to another process by the time it is read.
type recorded struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

func writeState(path string, pid int) error {
	if path == "" {
		return nil
	}
	r := recorded{PID: pid}
	var err error
	if r.Start, _, err = statOf(pid); err != nil {
		return err
	}
	if r.Boot, err = bootID(); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// It is about this boot only, so it need not survive a power loss.
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func removeState(path string) {
	if path != "" {
		_ = os.Remove(path)
	}
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// statOf reads a process's start time and process group, proc_pid_stat(5).
func statOf(pid int) (start uint64, group int, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may hold anything; the fields after it count from 3.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const groupField, startField = 5 - 3, 22 - 3
	if len(fields) <= startField {
		return 0, 0, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	if group, err = strconv.Atoi(string(fields[groupField])); err != nil {
		return 0, 0, err
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	return start, group, err
}

// endRecorded ends the process that the state file names, and its group, if it is
// still the same process. It returns its pid, or 0 if there was none.
func endRecorded(path string, sig syscall.Signal, timeout time.Duration) (int, error) {
	if path == "" {
		return 0, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find out whether a process is left: %w", err)
	}
	var r recorded
	boot, err := bootID()
	if json.Unmarshal(data, &r) != nil || r.PID <= 1 || err != nil || boot != r.Boot {
		removeState(path)
		return 0, nil
	}
	fd, err := openIf(r.PID, func(start uint64, _ int) bool { return start == r.Start })
	if err != nil {
		removeState(path)
		return 0, nil
	}
	defer unix.Close(fd)
	members := groupOf(r.PID)
	defer func() {
		for _, m := range members {
			_ = unix.PidfdSendSignal(m, unix.SIGKILL, nil, 0)
			_ = unix.Close(m)
		}
	}()
	if sig == 0 {
		sig = unix.SIGTERM
	}
	_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	if !pidfdEnds(fd, timeout) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		if !pidfdEnds(fd, killTime) {
			return 0, fmt.Errorf("cannot end the process that an earlier agent left (pid %d); end it by hand", r.PID)
		}
	}
	removeState(path)
	return r.PID, nil
}

// openIf opens a process if it is the right one; what is open cannot become
// another.
func openIf(pid int, right func(start uint64, group int) bool) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	start, group, err := statOf(pid)
	if err != nil || !right(start, group) {
		_ = unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// groupOf opens the members of a process group.
func groupOf(pgid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var fds []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == pgid {
			continue
		}
		if fd, err := openIf(pid, func(_ uint64, group int) bool { return group == pgid }); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

func pidfdEnds(fd int, timeout time.Duration) bool {
	end := time.Now().Add(timeout)
	for {
		left := max(0, time.Until(end).Milliseconds())
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}
