package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Left says whether the process on record in stateFile, which an agent has left there,
// still runs; pid is 0 if none is on record. It is for whoever only looks: nothing is
// signalled, taken over or written. A number that is another process's by now does not
// count, and neither does a copy of the agent that has not become the process yet.
func Left(stateFile string) (pid int, runs bool, err error) {
	r, err := readRecord(stateFile)
	if err != nil || r.PID == 0 {
		return 0, false, err
	}
	boot, err := bootID()
	if err != nil {
		return r.PID, false, fmt.Errorf("cannot find out whether process %d is the one on record: %w", r.PID, err)
	}
	if boot != r.Boot {
		return r.PID, false, nil
	}
	fd, err := openIf(r.PID, func(st procStat) bool { return st.start == r.Start })
	if errors.Is(err, unix.ESRCH) {
		return r.PID, false, nil
	}
	if err != nil {
		return r.PID, false, fmt.Errorf("cannot find out whether process %d runs: %w", r.PID, err)
	}
	defer unix.Close(fd)
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.PID))
	copied := strings.Trim(string(name), "\x00") == ExecName
	return r.PID, !copied && !pidfdEnds(fd, 0), nil
}
