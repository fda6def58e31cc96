package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files of the waiting copy, beside the standard ones: it reads what to become
// from the first, and says in the second why it could not.
const (
	specFile   = 3
	reportFile = 4
)

// notExecuted is the exit status of a copy that did not become anything.
const notExecuted = 127

// spec is what the copy becomes. Bytes, because neither a path nor the environment
// need be text.
type spec struct {
	Path, Dir  []byte
	Args, Env  [][]byte
	User       string              // for the error
	Credential *syscall.Credential // nil: the agent's own
}

// report is why the copy did not become the process.
type report struct {
	Op    string
	Path  []byte
	Errno syscall.Errno
}

// waiting is a copy of this program in a process group of its own that waits to be
// told what to become. If its agent ends without a word, so does it.
type waiting struct {
	cmd    *exec.Cmd
	spec   *os.File
	report *os.File
}

// startWaiting starts the copy. Nothing of its environment would stay, and what
// the Go runtime takes from one is not for it.
func startWaiting(stdout, stderr *os.File) (*waiting, error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, specW.Close())
	}
	defer reportW.Close()
	w := &waiting{spec: specW, report: reportR, cmd: &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{ExecName}, Env: []string{},
		Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{specR, reportW},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}}
	if stdout != nil {
		w.cmd.Stdout, w.cmd.Stderr = stdout, stderr
	}
	if err := w.cmd.Start(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *waiting) close() {
	_ = w.spec.Close()
	_ = w.report.Close()
}

// letGo ends a copy that is not to become anything.
func (w *waiting) letGo() {
	w.close()
	_ = w.cmd.Process.Kill() // should it hang; there is nothing in it that could be lost
	_ = w.cmd.Wait()
}

// become tells the copy, and returns when it is the process. It has closed its
// report without a word then, or has ended, which its waiter finds out.
func (w *waiting) become(s *spec) error {
	err := json.NewEncoder(w.spec).Encode(s)
	if err = errors.Join(err, w.spec.Close()); err != nil {
		return fmt.Errorf("cannot tell a new process what to execute: %w", err)
	}
	data, err := io.ReadAll(w.report)
	if err != nil || len(data) == 0 {
		return err
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("cannot execute %s: %w", s.Path, err)
	}
	return &fs.PathError{Op: r.Op, Path: string(r.Path), Err: r.Errno}
}

// ExecMain is all of the program in a process whose name is ExecName: it waits for
// its agent's word and becomes the process that is to be supervised. It does not
// return. That it ends by the system call leaves out all that a program does at
// its end; it has never been one.
func ExecMain() {
	in := os.NewFile(specFile, "spec")
	data, err := io.ReadAll(in)
	var s spec
	if err != nil || json.Unmarshal(data, &s) != nil || in.Close() != nil {
		syscall.Exit(notExecuted)
	}
	unix.CloseOnExec(reportFile)
	r := s.become()
	_ = json.NewEncoder(os.NewFile(reportFile, "report")).Encode(r)
	syscall.Exit(notExecuted)
}

// busyTime bounds the retries of a program file that somebody still has open for
// writing: a child of the agent between fork and exec can, for an instant.
const busyTime = 2 * time.Second

// become returns only if it fails. The program is executed, and its folder
// entered, with the rights of the user that it runs as.
func (s *spec) become() report {
	if err := s.drop(); err != nil {
		return reportOf("cannot run as", []byte(s.User), err)
	}
	if len(s.Dir) > 0 {
		if err := unix.Chdir(string(s.Dir)); err != nil {
			return reportOf("chdir", s.Dir, err)
		}
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		// This also sets the limit of open files back, which the Go runtime has raised.
		err := syscall.Exec(string(s.Path), texts(s.Args), texts(s.Env))
		if !errors.Is(err, unix.ETXTBSY) || time.Since(began) > busyTime {
			return reportOf("fork/exec", s.Path, err)
		}
	}
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
