package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// waiters are for the one goroutine that waits for a child's main process.
type waiters struct {
	wake     int         // an eventfd, for another main process
	stopping atomic.Bool // it ends because it is stopped

	mu    sync.Mutex
	mains []*main // all that were it and live; the last is it now
	over  bool    // the last has ended: there will be no other

	lastWord func() // see hear
	flush    func()
}

// main is a process that is, or was, the main one.
type main struct {
	pid, fd int
	cmd     *exec.Cmd // nil: it was not started here
	stray   bool      // it was started by one that was
	theirs  bool      // another in this program collects it
}

func newChild(r recorded, fd int, cmd *exec.Cmd) (*child, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	m := &main{pid: r.PID, fd: fd, cmd: cmd}
	if cmd == nil {
		m.theirs = !ownChildren.await(m.pid, m)
	}
	c := &child{pid: r.PID, fd: fd, record: r, tree: treeOf(r), done: make(chan struct{}),
		waiters: waiters{wake: wake, mains: []*main{m}}}
	c.tree.spares.keep()
	return c, nil
}

// close is for a child that has ended, after the last signal.
func (c *child) close() {
	_ = unix.Close(c.fd)
	_ = unix.Close(c.wake)
	c.tree.spares.giveUp()
}

// owns says whether a process belongs to what was started as c: itself, or
// something that it has brought about.
func (c *child) owns(pid int) bool { return c.tree.owns(pid) }

// hear has the waiter call lastWord when the main process has ended by itself, before
// anything of its tree is killed. When it returns, what was said until then is dealt
// with: the process may have named another as the main one. It may wait for Run's
// goroutine. flush is called when another has ended that was the main process, before its
// number is given up, by which it is known who has said something.
func (c *child) hear(lastWord, flush func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastWord, c.flush = lastWord, flush
}

// wait ends when the main process has and nothing of the tree is left, or only what
// cannot be killed. The tree is killed while the ended process is uncollected where
// that is a child of ours, so that the number of its group cannot be another's.
func (c *child) wait() {
	defer close(c.done)
	for !c.waitOnce() {
	}
	last := c.mains[len(c.mains)-1]
	reserved := slices.ContainsFunc(c.mains, func(m *main) bool { return m.cmd != nil && m.pid == c.tree.leader })
	c.killed, c.left, c.unseen = c.tree.kill(last.pid, reserved)
	for _, m := range c.mains[:len(c.mains)-1] {
		if pidfdEnds(m.fd, 0) {
			m.collect()
		} else {
			m.leave() // it hangs
		}
		_ = unix.Close(m.fd)
	}
	c.exit = last.collect() // its pidfd is the child's
}

// waitOnce waits until one of those that are or were the main process has ended, or
// another became it, and says whether that was the end of the last.
func (c *child) waitOnce() (over bool) {
	c.mu.Lock()
	mains := slices.Clone(c.mains)
	c.mu.Unlock()
	fds := []unix.PollFd{{Fd: int32(c.wake), Events: unix.POLLIN}}
	for _, m := range mains {
		fds = append(fds, unix.PollFd{Fd: int32(m.fd), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, -1); err != nil {
		return false // interrupted
	}
	var count [8]byte
	_, _ = unix.Read(c.wake, count[:])
	c.mu.Lock()
	lastWord, flush := c.lastWord, c.flush
	c.mu.Unlock()
	last := mains[len(mains)-1]
	for i, m := range mains {
		if fds[i+1].Revents == 0 {
			continue
		}
		switch {
		case lastWord == nil:
		case m != last:
			flush()
		case !c.stopping.Load():
			lastWord()
		}
		if c.lastEnded(m) {
			return true
		}
	}
	return false
}

// lastEnded says whether the process that has ended is the main one still. Another is
// collected, as any member of the tree.
func (c *child) lastEnded(m *main) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m == c.mains[len(c.mains)-1] {
		c.over = true
		return true
	}
	c.mains = slices.DeleteFunc(c.mains, func(other *main) bool { return other == m })
	m.collect()
	_ = unix.Close(m.fd)
	return false
}

// collect takes the status of a process that has ended. It is known if that was a
// child of this program, or became one when its parent ended.
func (m *main) collect() exitStatus {
	if m.cmd != nil {
		_ = ownChildren.wait(m.cmd) // there are no pipes to fail
		if m.cmd.ProcessState == nil {
			return exitStatus{stray: true}
		}
		status, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus)
		return exitStatus{known: ok, status: status}
	}
	if m.theirs {
		return exitStatus{stray: m.stray}
	}
	defer m.leave()
	var info unix.Siginfo
	var err error = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Waitid(unix.P_PIDFD, m.fd, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	}
	if err != nil || info.Signo == 0 {
		return exitStatus{stray: m.stray}
	}
	var status unix.WaitStatus
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		_, err = unix.Wait4(m.pid, &status, unix.WNOHANG, nil)
	}
	return exitStatus{known: err == nil, status: syscall.WaitStatus(status), stray: m.stray}
}

// leave is collect for a process that has not ended.
func (m *main) leave() {
	if m.cmd != nil {
		ownChildren.leave(m.pid, m.cmd)
	} else {
		ownChildren.leave(m.pid, m)
	}
}

// newMain makes another process of the tree the main one, because the main one has
// said so: its end is the process's end from now on, signals go to it, and the next
// agent takes it over. The one from before is a member of the tree like any other.
// It must be called by Run's goroutine. After an error nothing has changed.
func (s *Supervisor) newMain(pid int) error {
	c := s.child
	if c == nil {
		return ErrNotRunning
	}
	if pid == c.pid {
		return nil
	}
	cannot := func(err error) error { return fmt.Errorf("pid %d cannot become the main process: %w", pid, err) }
	if pid <= 1 || pid == os.Getpid() {
		return cannot(errors.New("it can belong to no process that was started here"))
	}
	st, err := statOf(pid)
	if err != nil {
		return cannot(errors.New("there is no such process"))
	}
	fd, err := openIf(pid, func(now procStat) bool { return now.start == st.start })
	if err != nil {
		return cannot(err)
	}
	if !c.owns(pid) || pidfdEnds(fd, 0) { // asked when it is open: the answer is about this one
		_ = unix.Close(fd)
		return cannot(errors.New("it does not belong to the process, or has ended"))
	}
	before := c.record
	c.record.PID, c.record.Start = pid, st.start
	if err := c.record.write(s.opts.StateFile); err != nil {
		c.record = before
		_ = unix.Close(fd)
		return cannot(err)
	}
	if !c.follow(pid, fd, st.start) {
		c.record = before
		_ = c.record.write(s.opts.StateFile)
		return cannot(errors.New("the process has ended"))
	}
	s.log.Info("another process is the main one now", "pid", pid, "before", before.PID)
	s.enter(s.Status().State)
	return nil
}

// follow has the waiter wait for another main process, which fd is.
func (c *child) follow(pid, fd int, start uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = unix.Close(fd)
		return false
	}
	at := slices.IndexFunc(c.mains, func(m *main) bool { return m.pid == pid })
	if at >= 0 { // it was it before
		again := c.mains[at]
		_ = unix.Close(fd)
		c.mains = append(slices.Delete(c.mains, at, at+1), again)
		c.pid, c.fd = again.pid, again.fd
	} else {
		m := &main{pid: pid, fd: fd, stray: true}
		m.theirs = !ownChildren.await(pid, m)
		c.mains = append(c.mains, m)
		c.pid, c.fd = pid, fd
	}
	c.tree.met(pid, start)
	_, _ = unix.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return true
}
