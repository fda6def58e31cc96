package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"patchagent/agent/sdnotify"
)

// listening is the socket that the process says things to, and who reads from it.
type listening struct {
	*sdnotify.Listener        // nil: there is none
	trouble            error  // why not
	made               string // the folder that was made for it; "": none
	reader             sync.WaitGroup
}

var errNoStateFile = errors.New("there is no state folder for a socket")

// listen makes the socket and reads from it, always. What it returns ends that, and
// removes the socket unless the process is left to the next agent, which makes it
// again at the same place: a process keeps the NOTIFY_SOCKET that it was started with.
func (s *Supervisor) listen() (end func()) {
	if err := s.openSocket(); err != nil && !errors.Is(err, errNoStateFile) {
		s.log.Warn("nothing that the process says of itself can be heard", "error", err)
	}
	return func() {
		if n := &s.notify; n.Listener != nil {
			if s.released {
				_ = n.Leave()
			} else {
				_ = n.Close()
				if n.made != "" {
					_ = os.Remove(n.made) // if it is empty
				}
			}
			n.reader.Wait()
		}
		s.store.empty()
	}
}

func (s *Supervisor) openSocket() error {
	n := &s.notify
	if n.Listener != nil {
		return nil
	}
	places, err := socketPlaces(s.opts, os.Getuid())
	for _, p := range places {
		if n.Listener, err = p.listen(); err == nil {
			n.made = p.made()
			n.reader.Go(func() { n.Serve(s.hear, s.refuse) })
			break
		}
	}
	n.trouble = err
	return err
}

// Where sockets are that cannot be in the state folder.
const (
	runFolder  = "/run/patchagent"    // of root
	tempFolder = "/tmp/patchagent-%d" // of a user
)

// A place is where the socket can be. It is the same for all agents of one state
// folder.
type place struct {
	dir, name string
	own       bool // dir is made for sockets
	dirMode   fs.FileMode
	mode      fs.FileMode
}

// socketPlaces are where the socket can be, the best first. The state folder lets
// nobody in but its owner. So the socket of an agent that is root, and can run the
// process as anybody, is where everybody can reach it: who may say something is
// decided by who it is. The other folder of a user is for a state folder whose path is
// longer than that of a socket can be.
func socketPlaces(opts Options, uid int) ([]place, error) {
	if opts.StateFile == "" {
		return nil, errNoStateFile
	}
	file, err := filepath.Abs(opts.StateFile)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(filepath.Join(dir, filepath.Base(file))))
	const enough = 12 // bytes, so that no two are the same
	hashed := hex.EncodeToString(sum[:enough]) + ".sock"
	beside := place{dir: dir, name: "notify.sock", mode: 0o600}
	if uid != 0 {
		return []place{beside, {dir: fmt.Sprintf(tempFolder, uid), name: hashed, own: true, dirMode: 0o700, mode: 0o600}}, nil
	}
	run := place{dir: runFolder, name: hashed, own: true, dirMode: 0o755, mode: 0o777}
	if opts.User == "" {
		return []place{run, beside}, nil
	}
	return []place{run}, nil
}

func (p place) made() string {
	if p.own {
		return p.dir
	}
	return ""
}

// listenAttempts is how often a folder is made that others remove when they leave it
// empty.
const listenAttempts = 5

func (p place) listen() (l *sdnotify.Listener, err error) {
	for range listenAttempts {
		if err = p.makeFolder(); err != nil {
			return nil, err
		}
		l, err = sdnotify.Listen(filepath.Join(p.dir, p.name), p.mode)
		if !p.own || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return l, err
}

// makeFolder makes the folder if it is made for sockets. One that is there has to be
// the agent's own, or somebody else could be listening.
func (p place) makeFolder() error {
	if !p.own {
		return nil
	}
	if err := os.Mkdir(p.dir, p.dirMode); err == nil {
		return os.Chmod(p.dir, p.dirMode) // whatever the umask is
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(p.dir)
	if err != nil {
		return err
	}
	const othersWrite = 0o022
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Getuid() || info.Mode().Perm()&othersWrite != 0 {
		return fmt.Errorf("%s is not a folder of the agent's user alone; remove it", p.dir)
	}
	return nil
}

// notifying adds what has to do with the socket to what a process finds at its start,
// and the descriptors that it has given the agent to keep. It is an error if the
// process could not say what it has to.
func (s *Supervisor) notifying(with *surroundings) error {
	err := s.openSocket()
	if needed := s.opts.needsNotify(); err != nil && needed != "" {
		return fmt.Errorf("%s is set, and nothing that the process says of itself can be heard: %w", needed, err)
	}
	with.born = func(c *child) { s.attend(c, false, s.opts.Watchdog) }
	if err == nil {
		with.env = append(with.env, "NOTIFY_SOCKET="+s.notify.Path())
	}
	if every := s.opts.Watchdog; every > 0 {
		with.env = append(with.env, "WATCHDOG_USEC="+strconv.FormatInt(every.Microseconds(), 10))
		with.numbers = append(with.numbers, "WATCHDOG_PID")
	}
	files, names := s.stored()
	with.files, with.names = append(with.files, files...), append(with.names, names...)
	return nil
}

// attend listens to a process from now on; see heard.begin.
func (s *Supervisor) attend(c *child, ready bool, every time.Duration) {
	s.heard.begin(c, ready, every)
	c.hear(func() { s.lastWord(c) }, s.flush)
}

// needsNotify names the key that cannot do without the socket, or none.
func (o Options) needsNotify() string {
	switch {
	case o.Ready.Notify:
		return "target.ready.notify"
	case o.Reload.Confirm:
		return "target.reload.confirm"
	case o.Watchdog > 0:
		return "target.watchdog"
	default:
		return ""
	}
}

// hear takes a message in. It is called by the reader.
func (s *Supervisor) hear(m *sdnotify.Received) {
	h := &s.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.child == nil {
		return
	}
	if !h.belongs(m.PID) {
		if !h.strange { // who floods the socket is not to flood the log
			s.log.Warn("somebody says things to the process's socket and does not belong to it, or is gone already", "sender", m.PID, "uid", m.UID)
		}
		h.strange = true
		return
	}
	if len(m.Invalid) > 0 {
		s.log.Debug("the process says what cannot be understood", "sender", m.PID, "fields", m.Invalid)
	}
	before := h.text
	h.note(m)
	if h.text != before {
		s.log.Debug("the process says how it is", "pid", h.pid, "status", h.text)
	}
	if m.Errno != "" || m.ExitStatus != "" || m.BusError != "" {
		s.log.Debug("the process says why it fails", "pid", h.pid, "errno", m.Errno, "exit_status", m.ExitStatus, "buserror", m.BusError)
	}
	s.keep(m)
}

// refuse is told of what is no message.
func (s *Supervisor) refuse(from sdnotify.Sender, err error) {
	h := &s.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.strange {
		s.log.Warn("a message to the process's socket is refused", "sender", from.PID, "uid", from.UID, "error", err)
	}
	h.strange = true
}

// maxKnown bounds how many members of the tree are remembered; more are looked at anew.
const maxKnown = 64

// belongs says whether a process is the one that is listened to, or of its tree. The
// main process is by its number alone, which is its own until its end is dealt with;
// any other has to be there still. The caller holds mu.
func (h *heard) belongs(pid int) bool {
	if pid == h.pid {
		return true
	}
	st, err := statOf(pid)
	if err != nil {
		return false
	}
	if start, ok := h.known[pid]; ok && start == st.start {
		return true
	}
	if !h.child.owns(pid) {
		return false
	}
	if len(h.known) >= maxKnown {
		clear(h.known)
	}
	h.known[pid] = st.start
	return true
}
