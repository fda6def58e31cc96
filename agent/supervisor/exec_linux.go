package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notExecuted is the exit status of a copy that did not become anything.
const notExecuted = 127

// spec is what the copy becomes. Bytes, because neither a path nor the environment
// need be text.
type spec struct {
	Stay       time.Duration // nothing to become yet: only how long to stay should the agent end
	Path, Dir  []byte
	Args, Env  [][]byte
	Numbers    []string            // variables that hold the process's own number
	User       string              // for the error
	Credential *syscall.Credential // nil: the agent's own
	Limits     limits
}

// report is why the copy did not become the process.
type report struct {
	Op    string
	Path  []byte
	Errno syscall.Errno
}

// waiting is a copy of this program in a process group of its own that waits to be
// told what to become. If its agent ends without a word, so does it, or else stays for
// a while with the files that it has (keep). Its standard input is one end of a socket,
// on which it also says why it could not: any other number might be that of a file
// that the process is to inherit.
type waiting struct {
	cmd    *exec.Cmd
	socket *os.File
	mark   mark
	within time.Duration // from the word until it is the process
}

// becomeTime bounds how long a copy may take to become the process. What takes it longer
// than a busy program file is a folder that does not answer, such as one of a server that
// is gone, or somebody who has stopped it.
const becomeTime = busyTime + 8*time.Second

// alone is the environment of the copy: one goroutine runs at a time, and neither
// the collector nor the scheduler interrupts it (see execute). What it becomes gets
// an environment of its own.
var alone = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1"}

// startWaiting starts the copy, in the cgroup of m if it has one. After an error the
// cgroup is still there.
func startWaiting(stdout, stderr *os.File, files []*os.File, m mark) (*waiting, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	defer theirs.Close()
	_ = unix.SetNonblock(pair[0], true) // so that it knows deadlines
	w := &waiting{socket: os.NewFile(uintptr(pair[0]), "socket"), mark: m, within: becomeTime}
	command := func() *exec.Cmd {
		cmd := &exec.Cmd{
			Path: "/proc/self/exe", Args: []string{ExecName}, Env: alone,
			Stdin: theirs, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: files,
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		}
		if stdout != nil {
			cmd.Stdout, cmd.Stderr = stdout, stderr
		}
		return cmd
	}
	if err := w.start(command); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// start starts the copy in its cgroup, or moves it there before it is anything: a
// sandbox may forbid the one (clone3(2), by RestrictNamespaces= of systemd), and the
// other takes some milliseconds. Where neither works it goes without.
func (w *waiting) start(command func() *exec.Cmd) error {
	if dir, err := os.Open(w.mark.cgroup); err == nil && w.mark.cgroup != "" {
		w.cmd = command()
		w.cmd.SysProcAttr.UseCgroupFD, w.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		err = ownChildren.start(w.cmd)
		_ = dir.Close()
		if err == nil {
			return nil
		}
	}
	w.cmd = command()
	if err := ownChildren.start(w.cmd); err != nil {
		return err
	}
	if w.mark.cgroup == "" {
		return nil
	}
	pid := strconv.Itoa(w.cmd.Process.Pid)
	if os.WriteFile(filepath.Join(w.mark.cgroup, "cgroup.procs"), []byte(pid), 0) != nil {
		w.mark.remove()
		w.mark.cgroup = ""
	}
	return nil
}

func (w *waiting) close() { _ = w.socket.Close() }

// letGo ends a copy that is not to become anything, and its cgroup. The error is that of
// one that hangs in the kernel: it ends as soon as it does not, and whoever collects
// orphans collects it.
func (w *waiting) letGo() error {
	w.close()
	_ = w.cmd.Process.Kill() // should it hang; there is nothing in it that could be lost
	pid := w.cmd.Process.Pid
	for began := time.Now(); w.waits(); time.Sleep(sweepPause) {
		if time.Since(began) > killTime {
			ownChildren.leave(pid, w.cmd)
			_ = w.cmd.Process.Release()
			return fmt.Errorf("the copy that was to become it, pid %d, is still there %s after SIGKILL; it hangs in the kernel, see /proc/%[1]d/wchan", pid, killTime)
		}
	}
	_ = ownChildren.wait(w.cmd)
	w.mark.remove()
	return nil
}

// become tells the copy, and returns when it is the process. It has closed its end
// without a word then, or has ended, which its waiter finds out. After any error it
// has to be let go; if the error wraps os.ErrDeadlineExceeded it may be the process even
// so.
func (w *waiting) become(s *spec) error {
	_ = w.socket.SetDeadline(time.Now().Add(w.within))
	err := json.NewEncoder(w.socket).Encode(s)
	if err == nil {
		err = unix.Shutdown(int(w.socket.Fd()), unix.SHUT_WR)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return w.late(s, err)
	}
	if err != nil {
		return fmt.Errorf("cannot tell a new process what to execute: %w", err)
	}
	data, err := io.ReadAll(w.socket)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return w.late(s, err)
	}
	if err != nil || len(data) == 0 {
		return err
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("cannot execute %s: %w", s.Path, err)
	}
	return &fs.PathError{Op: r.Op, Path: string(r.Path), Err: r.Errno}
}

func (w *waiting) late(s *spec, err error) error {
	return fmt.Errorf("cannot execute %s in %s within %s: either is on a file system that does not answer, or the new process was stopped (SIGSTOP): %w",
		s.Path, s.Dir, w.within, err)
}

// keep tells the copy to stay for a while should the agent end without a word.
func (w *waiting) keep(stay time.Duration) error {
	return json.NewEncoder(w.socket).Encode(spec{Stay: stay})
}

// ExecMain is all of the program in a process whose name is ExecName: it waits for
// its agent's word and becomes the process that is to be supervised. It does not
// return. That it ends by the system call leaves out all that a program does at
// its end; it has never been one.
func ExecMain() {
	words := json.NewDecoder(os.Stdin)
	var s spec
	for len(s.Path) == 0 {
		stay := s.Stay
		s = spec{}
		if words.Decode(&s) != nil {
			outlive(stay)
			syscall.Exit(notExecuted)
		}
	}
	// The program closes this copy when it is executed.
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		syscall.Exit(notExecuted)
	}
	_ = json.NewEncoder(os.NewFile(uintptr(fd), "socket")).Encode(s.become(fd))
	syscall.Exit(notExecuted)
}

// become returns only if it fails before the limits of resources are set; when they
// are, it says itself to the socket what fails. The program is executed, and its
// folder entered, with the rights of the user that it runs as.
func (s *spec) become(socket int) report {
	if err := emptyInput(); err != nil {
		return reportOf("open", []byte(os.DevNull), err)
	}
	runtime.LockOSThread()
	if failed := s.Limits.allow(); failed != nil {
		return *failed
	}
	if err := s.drop(); err != nil {
		return reportOf("cannot run as", []byte(s.User), err)
	}
	if len(s.Dir) > 0 {
		if err := unix.Chdir(string(s.Dir)); err != nil {
			return reportOf("chdir", s.Dir, err)
		}
	}
	i, err := s.image()
	if err != nil {
		return reportOf("fork/exec", s.Path, err)
	}
	// To execute nothing fails, but sets the limit of open files back, which the Go
	// runtime has raised.
	_ = syscall.Exec("", nil, nil)
	i.execute(socket)
	return report{} // it does not come here
}

// image is all that is needed to execute a program, laid out as the system calls
// want it.
type image struct {
	path      *byte
	args, env []*byte
	limits    []resource
	failed    []byte // the report, with room for the errno
}

func (s *spec) image() (*image, error) {
	env := texts(s.Env)
	for _, name := range s.Numbers {
		env = append(env, name+"="+strconv.Itoa(os.Getpid()))
	}
	i := &image{limits: s.Limits.Resources}
	var errs [4]error
	i.path, errs[0] = syscall.BytePtrFromString(string(s.Path))
	i.args, errs[1] = syscall.SlicePtrFromStrings(texts(s.Args))
	i.env, errs[2] = syscall.SlicePtrFromStrings(env)
	i.failed, errs[3] = json.Marshal(report{Op: "fork/exec", Path: s.Path, Errno: 100})
	return i, errors.Join(errs[:]...)
}

// busyTime bounds the retries of a program file that somebody still has open for
// writing: a child of the agent between fork and exec can, for an instant.
const busyTime = 2 * time.Second

// execute sets the limits of resources and becomes the program, or reports why not
// and ends. With a narrow limit of memory the Go runtime dies of its next mmap(2),
// and it needs one now and then, for a thread or an allocation. So from the first
// limit on there are only system calls that the scheduler does not see, in a process
// where no other goroutine gets a turn. Every such limit was checked by allow.
//
//go:norace
func (i *image) execute(socket int) {
	var errno syscall.Errno
	for r := range i.limits {
		if _, _, errno = unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(i.limits[r].Number), uintptr(unsafe.Pointer(&i.limits[r].Limit)), 0, 0, 0); errno != 0 {
			break
		}
	}
	began, pause := monotonic(), unix.NsecToTimespec(int64(time.Millisecond))
	for errno == 0 || errno == unix.ETXTBSY && monotonic()-began <= int64(busyTime) {
		if errno != 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(i.path)), uintptr(unsafe.Pointer(&i.args[0])), uintptr(unsafe.Pointer(&i.env[0])))
	}
	number := i.failed[len(i.failed)-len("100}"):]
	number[0], number[1] = ' ', ' '
	for d := 2; errno > 0; d-- {
		number[d] = byte('0' + errno%10)
		errno /= 10
	}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(socket), uintptr(unsafe.Pointer(&i.failed[0])), uintptr(len(i.failed)))
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, notExecuted, 0, 0)
}

// keptName is what a copy is called (proc_pid_comm(5)) that has no agent any more and
// never becomes anything, but still has the files that it was given.
const keptName = "patchagent-kept"

// outlive keeps the files for the next agent, which may get at them as this one could.
func outlive(stay time.Duration) {
	if stay <= 0 || os.WriteFile("/proc/self/comm", []byte(keptName), 0) != nil {
		return
	}
	_ = unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0) // where Yama asks for it
	time.Sleep(stay)
}

// monotonic is a time in nanoseconds for execute.
//
//go:norace
//go:nosplit
func monotonic() int64 {
	var now unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

func emptyInput() error {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Dup3(null, 0, 0)
}

func (s *spec) drop() error {
	if s.Credential == nil {
		return nil
	}
	groups := make([]int, len(s.Credential.Groups))
	for i, g := range s.Credential.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return err
	}
	if err := syscall.Setgid(int(s.Credential.Gid)); err != nil {
		return err
	}
	return syscall.Setuid(int(s.Credential.Uid))
}

func reportOf(op string, path []byte, err error) report {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		errno = syscall.EINVAL
	}
	return report{Op: op, Path: path, Errno: errno}
}

func texts(all [][]byte) []string {
	list := make([]string, len(all))
	for i, b := range all {
		list[i] = string(b)
	}
	return list
}
