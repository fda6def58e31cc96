package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is a process that this agent has started. Its one waiter is the goroutine
// that spawn begins; done is closed when the process has ended, its group is gone
// and its status is known.
type child struct {
	pid     int
	started time.Time
	done    chan struct{}
	exit    exitStatus // valid after done
}

// exitStatus is how a process ended.
type exitStatus struct{ state *os.ProcessState }

func (e exitStatus) String() string {
	if e.state == nil {
		return "unknown"
	}
	return e.state.String()
}

func (e exitStatus) success() bool { return e.state != nil && e.state.Success() }

// busyTime bounds the retries of a program file that somebody still has open for
// writing: a child of the agent between fork and exec can, for an instant.
const busyTime = 2 * time.Second

func spawn(opts Options) (*child, error) {
	cmd, err := command(opts)
	if err != nil {
		return nil, err
	}
	stdout, stderr, err := openOutputs(opts)
	if err != nil {
		return nil, err
	}
	if stdout != nil {
		defer stdout.Close()
		defer stderr.Close() // the same file, maybe; then this is in vain
		cmd.Stdout, cmd.Stderr = stdout, stderr
	}
	for began := time.Now(); ; {
		attempt := *cmd
		err := attempt.Start()
		if err == nil {
			c := &child{pid: attempt.Process.Pid, started: time.Now(), done: make(chan struct{})}
			go c.wait(&attempt)
			return c, nil
		}
		if !errors.Is(err, unix.ETXTBSY) || time.Since(began) > busyTime {
			return nil, err
		}
		time.Sleep(time.Millisecond)
	}
}

// command says what to execute. A program with a slash is relative to the
// process's working directory, as a shell there would take it.
func command(opts Options) (*exec.Cmd, error) {
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
	// Without os/exec's own look-up the errors are the kernel's.
	cmd := &exec.Cmd{Path: name, Args: opts.Command, Dir: opts.Dir, Env: environment(opts), Stdout: os.Stdout, Stderr: os.Stderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if opts.User == "" {
		return cmd, nil
	}
	credential, err := credentialOf(opts.User)
	if err != nil {
		return nil, err
	}
	if int(credential.Uid) != os.Getuid() {
		cmd.SysProcAttr.Credential = credential
	}
	return cmd, nil
}

// credentialOf is a user with the groups that belong to it.
func credentialOf(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("cannot run as %s: %w", name, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot find the groups of %s: %w", name, err)
	}
	numbers := make([]uint32, 0, len(ids)+2)
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot run as %s: %w", name, err)
		}
		numbers = append(numbers, uint32(n))
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
}

// wait is the process's one waiter. The group is killed while the ended process is
// still unreaped, so that its number cannot have been given to another.
func (c *child) wait(cmd *exec.Cmd) {
	defer close(c.done)
	var info unix.Siginfo
	for unix.Waitid(unix.P_PID, c.pid, &info, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	c.killGroup()
	_ = cmd.Wait() // the status is in ProcessState; there are no pipes to fail
	c.exit = exitStatus{cmd.ProcessState}
	awaitGroup(c.pid)
}

// signal sends to the process itself. Until it is reaped the number is its own.
func (c *child) signal(sig syscall.Signal) {
	select {
	case <-c.done:
	default:
		_ = unix.Kill(c.pid, sig)
	}
}

func (c *child) killGroup() { _ = unix.Kill(-c.pid, unix.SIGKILL) }

// goneTime bounds the wait for killed members of a group to be gone; longer than
// that they are zombies that nobody reaps, and hold nothing any more.
const goneTime = time.Second

// awaitGroup returns when no member of the group is left: what they held, such as
// a port, is free then.
func awaitGroup(pgid int) {
	for began := time.Now(); time.Since(began) < goneTime; time.Sleep(time.Millisecond) {
		if errors.Is(unix.Kill(-pgid, 0), unix.ESRCH) {
			return
		}
	}
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
