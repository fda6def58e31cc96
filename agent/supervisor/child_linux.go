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

// child is the process. Its one waiter is a goroutine; done is closed when the
// process has ended, its group is gone and its status is known.
type child struct {
	pid     int
	fd      int // a pidfd, open until close
	started time.Time
	record  recorded
	cmd     *exec.Cmd // nil: an earlier agent has started it
	done    chan struct{}
	exit    exitStatus // valid after done
}

// exitStatus is how a process ended.
type exitStatus struct{ state *os.ProcessState }

func (e exitStatus) String() string {
	if e.state == nil {
		return "unknown, it was started by an earlier agent"
	}
	return e.state.String()
}

func (e exitStatus) success() bool { return e.state != nil && e.state.Success() }

// surroundings are what a process finds when it starts beside what its options say.
type surroundings struct {
	env     []string   // is not for the commands: NOTIFY_SOCKET and the like
	numbers []string   // names of variables that are to hold its own number: LISTEN_PID
	files   []*os.File // its descriptors from 3 on
	names   []string   // of the files, for LISTEN_FDNAMES
}

// surroundings are those of the next start.
func (s *Supervisor) surroundings() (surroundings, error) {
	return surroundings{}, nil
}

// spawn starts the process in three steps, so that there is never one that is not
// on record: a copy of this program that waits, the record of it, and only then
// the word to become the process.
func spawn(opts Options, with surroundings) (*child, error) {
	s, err := specOf(opts, with)
	if err != nil {
		return nil, err
	}
	w, err := prepare(opts, with)
	if err != nil {
		return nil, err
	}
	c, err := putOnRecord(w, opts.StateFile)
	if err != nil {
		w.letGo()
		return nil, err
	}
	if err := w.become(s); err != nil {
		w.letGo()
		c.close()
		removeState(opts.StateFile)
		return nil, err
	}
	w.close()
	go c.wait(c.record)
	return c, nil
}

// prepare starts the copy that waits.
func prepare(opts Options, with surroundings) (*waiting, error) {
	stdout, stderr, err := openOutputs(opts)
	if err != nil {
		return nil, err
	}
	if stdout != nil {
		defer stdout.Close()
		defer stderr.Close() // the same file, maybe; then this is in vain
	}
	return startWaiting(stdout, stderr, with.files)
}

func putOnRecord(w *waiting, path string) (*child, error) {
	pid := w.cmd.Process.Pid
	r, err := identify(pid)
	if err == nil {
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
	return &child{pid: pid, fd: fd, started: time.Now(), record: r, cmd: w.cmd, done: make(chan struct{})}, nil
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
	s := &spec{Path: []byte(name), Dir: []byte(opts.Dir), Args: bytesOf(opts.Command), Env: bytesOf(env), Numbers: numbers, User: opts.User}
	credential, err := credentialOf(opts.User)
	s.Credential = credential
	return s, err
}

func bytesOf(texts []string) [][]byte {
	list := make([][]byte, len(texts))
	for i, t := range texts {
		list[i] = []byte(t)
	}
	return list
}

// wait is the process's one waiter. The group is killed while the ended process is
// still unreaped, so that its number cannot have been given to another.
func (c *child) wait(r recorded) {
	defer close(c.done)
	var info unix.Siginfo
	for unix.Waitid(unix.P_PID, c.pid, &info, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	_ = c.cmd.Wait() // the status is in ProcessState; there are no pipes to fail
	c.exit = exitStatus{c.cmd.ProcessState}
	awaitGroup(r)
}

// signal sends to the process itself. It is no error if that has ended.
func (c *child) signal(sig syscall.Signal) error {
	if err := unix.PidfdSendSignal(c.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot signal pid %d, which may belong to another user: %w", c.pid, err)
	}
	return nil
}

// close is for a child that has ended, after the last signal.
func (c *child) close() { _ = unix.Close(c.fd) }

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
