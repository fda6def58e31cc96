package applier

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Holder says who holds the lock of a state folder, pid as text and purpose as in
// Options; pid is empty if nobody does, or if that cannot be seen. It only looks: to ask
// for the lock, even for a moment, could keep an agent from its start.
func Holder(state string) (pid, purpose string) {
	path := filepath.Join(state, lockName)
	info, err := os.Stat(path)
	if err != nil {
		return "", ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || !ok {
		return "", ""
	}
	pid, purpose = holder(path)
	file := fmt.Sprintf(":%d", st.Ino)
	for line := range strings.Lines(string(locks)) { // 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
		f := strings.Fields(line)
		if len(f) > 5 && f[1] == "FLOCK" && f[4] == pid && strings.HasSuffix(f[5], file) {
			return pid, purpose
		}
	}
	return "", ""
}
