package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Reaper collects the orphans among what the process starts, which would otherwise
// stay zombies for as long as the agent lives, and never the children that
// somebody in this program waits for. It is for a program that starts processes by
// this package alone.
type Reaper struct{}

// NewReaper makes this program the parent of all orphans below it
// (PR_SET_CHILD_SUBREAPER, prctl(2)), which process 1 of a container is anyway. Run
// collects them.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become the parent of what the process leaves behind: %w", err)
	}
	// The os package starts a child of its own when it is first asked for a process, to
	// see whether the kernel knows pidfds. It is to wait for that before Run does.
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
	return &Reaper{}, nil
}

// reapAgain is after how long the children are looked at again while an ended one is
// seen that its waiter has not collected yet: another may hide behind it.
const reapAgain = 100 * time.Millisecond

// Run collects until ctx is done.
func (*Reaper) Run(ctx context.Context) error {
	ended := make(chan os.Signal, 1) // signals that come while one is unread are one
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	again := time.NewTimer(0) // some may have ended before
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		case <-again.C:
		}
		if ownChildren.reap() {
			again.Reset(reapAgain)
		}
	}
}

// reap collects the ended children that nobody waits for, and says whether ended
// ones are left.
func (c *children) reap() (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !anyEnded() {
		return false
	}
	for _, pid := range childrenOf(os.Getpid()) {
		if _, awaited := c.awaited[pid]; awaited {
			continue
		}
		for errors.Is(collect(pid), unix.EINTR) {
			continue
		}
	}
	return anyEnded()
}

func collect(pid int) error {
	_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return err
}

// anyEnded says whether there is an ended child, and leaves it as it is.
func anyEnded() bool {
	var info unix.Siginfo
	var err error = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	}
	return err == nil && info.Signo != 0
}

// childrenOf lists the children of a process: of each of its threads, or of all
// processes those whose parent it is, where the kernel has no list
// (CONFIG_PROC_CHILDREN).
func childrenOf(pid int) []int {
	var list []int
	folder := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	listed := false
	for _, thread := range threads {
		data, err := os.ReadFile(folder + "/" + thread.Name() + "/children")
		if err != nil {
			continue // the thread has ended, or there are no lists
		}
		listed = true
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				list = append(list, child)
			}
		}
	}
	if listed {
		return list
	}
	return childrenAmongAll(pid)
}

func childrenAmongAll(pid int) (list []int) {
	all, _ := processes()
	for child, st := range all {
		if st.parent == pid {
			list = append(list, child)
		}
	}
	return list
}
