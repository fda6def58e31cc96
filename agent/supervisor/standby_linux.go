package supervisor

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// standby is a waiting copy that was started ahead of a stop, so that after it only
// the record and the word are left of a start. It is not on record, and ends if the
// agent does. It serves one start, if that finds the same files.
type standby struct {
	copy    *waiting
	files   []*os.File
	paths   [2]string      // of the outputs; "" is the agent's own
	outputs [2]os.FileInfo // what the copy writes to
}

// prepare starts the copy. Nothing of what is held is touched: the process still runs.
func (s *Supervisor) prepare() {
	s.dismiss()
	if s.child == nil || !s.sockets.complete(s.opts) {
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
		s.standby.copy.letGo()
		s.standby = nil
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
