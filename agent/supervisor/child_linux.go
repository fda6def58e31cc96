package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is the process with all that it has brought about. One goroutine waits for
// it (main_linux.go); done is closed when its main process has ended, nothing of its
// tree is left and its status is known.
type child struct {
	pid     int // of the main process, as Run sees it
	fd      int // its pidfd, open until close
	started time.Time
	record  recorded
	tree    *tree
	done    chan struct{}
	unready error // why it was not ready when it was taken over; nil: it was, or was started here

	// Valid after done.
	exit   exitStatus
	killed int   // processes that the main one had left
	left   []int // those that did not go even so
	unseen error // why there may be others

	waiters
}

// exitStatus is how a process ended.
type exitStatus struct {
	known  bool
	status syscall.WaitStatus
	stray  bool // it was nobody's child here, though it was started below this agent
}

func (e exitStatus) String() string {
	switch {
	case !e.known && e.stray:
		return "unknown, it was not started by the agent itself"
	case !e.known:
		return "unknown, it was started by an earlier agent"
	case e.status.Exited():
		return "exit status " + strconv.Itoa(e.status.ExitStatus())
	case e.status.CoreDump():
		return "signal: " + e.status.Signal().String() + " (core dumped)"
	default:
		return "signal: " + e.status.Signal().String()
	}
}

func (e exitStatus) success() bool { return e.known && e.status.Exited() && e.status.ExitStatus() == 0 }

// surroundings are what a process finds when it starts beside what its options say.
type surroundings struct {
	env     []string     // is not for the commands: NOTIFY_SOCKET and the like
	numbers []string     // names of variables that are to hold its own number: LISTEN_PID
	files   []*os.File   // its descriptors from 3 on
	names   []string     // of the files, for LISTEN_FDNAMES
	born    func(*child) // called when it is on record, and before it is the process; nil: nothing
	copy    *waiting     // that is started already; nil: it has to be
}

// surroundings are those of the next start.
func (s *Supervisor) surroundings() (surroundings, error) {
	var with surroundings
	if err := s.sockets.forStart(s.opts); err != nil {
		return with, err
	}
	with.files, with.names = s.sockets.files(s.opts)
	err := s.notifying(&with)
	return with, err
}

// spawn starts the process in three steps, so that there is never one that is not
// on record: a copy of this program that waits, the record of it, and only then
// the word to become the process.
func spawn(opts Options, with surroundings) (*child, error) {
	s, err := specOf(opts, with)
	if err != nil {
		if with.copy != nil {
			err = alsoHangs(err, with.copy.letGo())
		}
		return nil, err
	}
	w := with.copy
	if w == nil {
		if w, err = startCopy(opts, with); err != nil {
			return nil, err
		}
	}
	s.Env = append(s.Env, []byte(invocationName+"="+w.mark.invocation))
	c, err := putOnRecord(w, opts.StateFile)
	if err != nil {
		return nil, alsoHangs(err, w.letGo())
	}
	if with.born != nil {
		with.born(c)
	}
	if err := w.become(s); err != nil {
		hangs := w.letGo()
		if hangs == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			_, _, _ = c.tree.kill(c.pid, false) // should it have begun to be the process at the last moment
		}
		c.close()
		removeState(opts.StateFile)
		return nil, alsoHangs(err, hangs)
	}
	w.close()
	c.started = time.Now() // what came before was not the process
	go c.wait()
	return c, nil
}

// alsoHangs adds to an error that the copy could not be ended.
func alsoHangs(err, hangs error) error {
	if hangs == nil {
		return err
	}
	return fmt.Errorf("%w; and %w", err, hangs)
}

// startCopy starts the copy that waits.
func startCopy(opts Options, with surroundings) (*waiting, error) {
	stdout, stderr, err := openOutputs(opts)
	if err != nil {
		return nil, err
	}
	if stdout != nil {
		defer stdout.Close()
		defer stderr.Close() // the same file, maybe; then this is in vain
	}
	m := newMark(opts)
	w, err := startWaiting(stdout, stderr, with.files, m)
	if err != nil {
		m.remove()
	}
	return w, err
}

func putOnRecord(w *waiting, path string) (*child, error) {
	pid := w.cmd.Process.Pid
	r, err := identify(pid)
	if err == nil {
		r.Leader, r.LeaderStart = r.PID, r.Start
		r.Invocation, r.Cgroup = w.mark.invocation, w.mark.cgroup
		err = r.write(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot put the process on record, without which the next agent would not find it: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		removeState(path)
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	c, err := newChild(r, fd, w.cmd)
	if err != nil {
		_ = unix.Close(fd)
		removeState(path)
		return nil, err
	}
	return c, nil
}

// specOf says what to execute. A program with a slash is relative to the process's
// working directory, as a shell there would take it.
func specOf(opts Options, with surroundings) (*spec, error) {
	if len(opts.Command) == 0 {
		return nil, errors.New("there is no command")
	}
	name := opts.Command[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(opts.Dir, name)
		}
	} else if found, err := exec.LookPath(name); err == nil {
		name = found
	} else {
		return nil, err
	}
	env := append(environment(opts), with.env...)
	numbers := with.numbers
	if n := len(with.files); n > 0 {
		env = append(env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_FDNAMES="+strings.Join(with.names, ":"))
		numbers = append(slices.Clone(numbers), "LISTEN_PID")
	}
	var err error
	s := &spec{Path: []byte(name), Dir: []byte(opts.Dir), Args: bytesOf(opts.Command), Env: bytesOf(env), Numbers: numbers, User: opts.User}
	if s.Credential, err = credentialOf(opts.User); err != nil {
		return nil, err
	}
	s.Limits, err = limitsOf(opts.Limits)
	return s, err
}

func bytesOf(texts []string) [][]byte {
	list := make([][]byte, len(texts))
	for i, t := range texts {
		list[i] = []byte(t)
	}
	return list
}

// signal sends to the process itself. It is no error if that has ended.
func (c *child) signal(sig syscall.Signal) error {
	if err := unix.PidfdSendSignal(c.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot signal pid %d, which may belong to another user: %w", c.pid, err)
	}
	return nil
}

// mainEnds waits for the end of the main process alone; what it has started may still
// have to be ended. It is called by Run's goroutine, as is what makes another the main one.
func (c *child) mainEnds(d time.Duration) bool { return pidfdEnds(c.fd, max(0, d)) }

// isToTake says whether the main process has been sent a signal that it neither blocks nor
// has taken yet (proc_pid_status(5)).
func (c *child) isToTake() bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		return false
	}
	var pending, blocked uint64
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		switch {
		case err != nil:
		case name == "SigPnd", name == "ShdPnd":
			pending |= set
		case name == "SigBlk":
			blocked = set
		}
	}
	return pending&^blocked != 0
}

func (c *child) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
		return false
	}
}
