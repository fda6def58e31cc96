//go:build unix

package applier

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockTime is how long the lock of an agent that has ended is waited for: a child that
// it was about to start holds it until that is executed.
const lockTime = 2 * time.Second

// holder is what is in the lock: a pid, as text, and a purpose.
func holder(path string) (pid, purpose string) {
	text, _ := os.ReadFile(path)
	pid, purpose, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
	return pid, purpose
}

// ended says whether the process of that number has ended; one that nobody has asked
// for its status yet is still listed.
func ended(pid string) bool {
	n, err := strconv.Atoi(pid)
	if err != nil || n <= 0 {
		return false
	}
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	return errors.Is(unix.Kill(n, 0), unix.ESRCH) || bytes.Contains(stat, []byte(") Z "))
}

// takeLock takes the file's lock, which ends with the process however it ends,
// and writes the pid into it for whoever finds it taken.
func takeLock(path, purpose string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state folder: %w", err)
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		pid, doing := holder(path)
		if errors.Is(err, unix.EWOULDBLOCK) && time.Since(began) < lockTime && ended(pid) {
			continue
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &LockedError{Path: path, PID: pid, Purpose: doing}
		}
		return nil, fmt.Errorf("cannot lock the state folder: %w", err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strings.TrimSpace(strconv.Itoa(os.Getpid())+" "+purpose)+"\n"), 0)
	}
	return f, nil
}
