package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// standby is a waiting copy that was started ahead of a stop, so that after it only
// the record and the word are left of a start. It serves one start, if that finds the
// same files. It has a record of its own: should the agent be killed, the copy keeps
// the sockets for the next one, which may find no process that has them.
type standby struct {
	copy    *waiting
	files   []*os.File
	paths   [2]string      // of the outputs; "" is the agent's own
	outputs [2]os.FileInfo // what the copy writes to
}

// prepare starts the copy. Nothing of what is held is touched: the process may still run.
func (s *Supervisor) prepare() {
	s.dismiss()
	if !s.sockets.complete(s.opts) {
		return
	}
	files, _ := s.sockets.files(s.opts)
	kept, _ := s.stored()
	files = append(files, kept...)
	w, err := startCopy(s.opts, surroundings{files: files})
	if err != nil {
		s.log.Debug("the next start cannot be prepared", "error", err)
		return
	}
	b := &standby{copy: w, files: files, paths: outputPaths(s.opts)}
	for i, path := range b.paths {
		b.outputs[i], _ = os.Stat(path)
	}
	s.standby = b
	s.log.Debug("the next start is prepared", "pid", w.cmd.Process.Pid)
	if err := w.keepOnRecord(standbyFile(s.opts)); err != nil {
		s.log.Warn("cannot put on record what is prepared for the next start; should the agent be killed while there is no process, clients are refused", "error", err)
	}
}

// keepTime is how long a copy without an agent stays: longer than a service manager
// takes to start the next one, and not much longer than clients wait anyway.
const keepTime = 30 * time.Second

// standbyFile is where the copy is on record.
func standbyFile(opts Options) string {
	if opts.StateFile == "" {
		return ""
	}
	return opts.StateFile + ".prepared"
}

// keepOnRecord has the copy outlive its agent. One that is not on record must not: it
// could not be found, and would be in the way of the next agent.
func (w *waiting) keepOnRecord(path string) error {
	if path == "" {
		return nil
	}
	r, err := identify(w.cmd.Process.Pid)
	if err == nil {
		r.Invocation, r.Cgroup = w.mark.invocation, w.mark.cgroup
		err = r.write(path)
	}
	if err == nil {
		err = w.keep(keepTime)
	}
	return err
}

// takeKept takes the sockets that the service manager or else a killed agent's copy has
// kept. That copy is returned, if there is one: it is to stay until the sockets are
// where they outlive this agent, too.
func (s *Supervisor) takeKept() (*keptCopy, error) {
	s.sockets.takeKept(s.opts)
	r, err := readRecord(standbyFile(s.opts))
	if err != nil || r.PID == 0 {
		return nil, err
	}
	boot, err := bootID()
	if err != nil || boot != r.Boot {
		return nil, err
	}
	fd, err := openIf(r.PID, func(st procStat) bool { return st.start == r.Start })
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !isKept(r.PID, fd) {
		return nil, unix.Close(fd)
	}
	if err := s.sockets.copyFrom(r.PID, fd, s.opts, "what the last agent had prepared"); err != nil {
		s.log.Warn("cannot take the sockets that were kept; who waits in them is refused", "pid", r.PID, "error", err)
	}
	return &keptCopy{r.PID, fd}, nil
}

// keptCopy is that of a killed agent. A nil one is none.
type keptCopy struct{ pid, fd int }

func (k *keptCopy) is(pid int) bool { return k != nil && k.pid == pid }

// letGo ends it.
func (k *keptCopy) letGo() error {
	if k == nil {
		return nil
	}
	defer unix.Close(k.fd)
	_ = unix.PidfdSendSignal(k.fd, unix.SIGKILL, nil, 0)
	if !pidfdEnds(k.fd, killTime) {
		return fmt.Errorf("the copy of an earlier agent that keeps its sockets, pid %d, survives SIGKILL; it hangs in the kernel, see /proc/%[1]d/wchan", k.pid)
	}
	return nil
}

// isKept says whether the copy keeps its files for the next agent. It says so itself;
// one that had its word becomes the process instead.
func isKept(pid, fd int) bool {
	for began := time.Now(); time.Since(began) < settleTime; {
		proc := fmt.Sprintf("/proc/%d/", pid)
		comm, _ := os.ReadFile(proc + "comm")
		if strings.TrimSpace(string(comm)) == keptName {
			return true
		}
		name, err := os.ReadFile(proc + "cmdline")
		if err == nil && len(name) > 0 && strings.Trim(string(name), "\x00") != ExecName || pidfdEnds(fd, time.Millisecond) {
			return false
		}
	}
	return false
}

// withStandby adds the copy if it fits; if not, it is let go.
func (s *Supervisor) withStandby(with surroundings) surroundings {
	if b := s.standby; b != nil && b.fits(s.opts, with) {
		with.copy, s.standby = b.copy, nil
	}
	s.dismiss()
	return with
}

// dismiss lets go of the copy, if there is one.
func (s *Supervisor) dismiss() {
	if s.standby != nil {
		if err := s.standby.copy.letGo(); err != nil {
			s.log.Warn("what was prepared for the next start is left over", "error", err)
		}
		s.standby = nil
		s.forgetStandby()
	}
}

// forgetStandby takes the copy off its record.
func (s *Supervisor) forgetStandby() {
	if path := standbyFile(s.opts); path != "" {
		_ = os.Remove(path)
	}
}

func (b *standby) fits(opts Options, with surroundings) bool {
	if !slices.Equal(b.files, with.files) || b.paths != outputPaths(opts) || !b.copy.waits() {
		return false
	}
	for i, path := range b.paths {
		now, err := os.Stat(path)
		if path != "" && (err != nil || b.outputs[i] == nil || !os.SameFile(now, b.outputs[i])) {
			return false // somebody has moved it away
		}
	}
	return true
}

// outputPaths are those of the files that openOutputs opens.
func outputPaths(opts Options) [2]string {
	switch {
	case opts.Output != "":
		return [2]string{opts.Output, opts.Output}
	case opts.Spool != "":
		return [2]string{opts.Spool + ".out", opts.Spool + ".err"}
	default:
		return [2]string{}
	}
}

// waits says whether the copy is still there.
func (w *waiting) waits() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, w.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0
}
