package supervisor

import (
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"patchagent/agent/sdnotify"
)

// maxStored bounds the descriptors that are kept for the process (FDSTORE=1): they
// count towards the agent's own limit, and everything that is started gets them all.
const maxStored = 256

// store are the descriptors that the process has given the agent to keep. The zero
// store is empty.
type store struct {
	mu   sync.Mutex
	kept []kept
}

type kept struct {
	file *os.File
	name string
	poll bool // dropped when nobody is at its other end any more
}

// stored are the descriptors that the next process gets, and their names. They stay
// in the store, which closes them.
func (s *Supervisor) stored() (files []*os.File, names []string) {
	s.store.prune()
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for _, k := range s.store.kept {
		files, names = append(files, k.file), append(names, k.name)
	}
	return files, names
}

// keep does what a message wants done with descriptors.
func (s *Supervisor) keep(m *sdnotify.Received) {
	if m.Remove && m.Name != "" {
		s.store.remove(m.Name)
	}
	if !m.Store {
		return
	}
	name := m.Name
	if name == "" {
		name = sdnotify.DefaultName
	}
	if over := s.store.add(m.Take(), name, !m.NoPoll); over > 0 {
		s.log.Warn("no more descriptors are kept for the process", "name", name, "refused", over, "limit", maxStored)
	}
}

// add takes descriptors in. One of the same open file as another is closed, and so are
// those that there is no room for, among the agent's own descriptors, too; it returns how
// many those are.
func (s *store) add(fds []int, name string, poll bool) (over int) {
	s.prune()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range fds {
		twice := slices.ContainsFunc(s.kept, func(k kept) bool { return same(int(k.file.Fd()), fd) })
		if twice || len(s.kept) >= maxStored {
			_ = unix.Close(fd)
			if !twice {
				over++
			}
			continue
		}
		// One that does not block goes on like that: its flag is that of the process's own.
		f, err := raw(fd, name)
		if err != nil {
			over++
			continue
		}
		s.kept = append(s.kept, kept{f, name, poll})
	}
	return over
}

func (s *store) remove(name string) {
	s.removeIf(func(k kept) bool { return k.name == name })
}

func (s *store) empty() { s.removeIf(func(kept) bool { return true }) }

// prune drops what is of no use any more.
func (s *store) prune() {
	s.removeIf(func(k kept) bool { return k.poll && hungUp(int(k.file.Fd())) })
}

func (s *store) removeIf(yes func(kept) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.DeleteFunc(s.kept, func(k kept) bool {
		if !yes(k) {
			return false
		}
		_ = k.file.Close()
		return true
	})
}

func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// same says whether two descriptors are of one open file description, as far as that
// can be found out: by kcmp(2), or for sockets, which have only one each, by their
// number.
func same(a, b int) bool {
	const file = 0 // KCMP_FILE
	self := uintptr(os.Getpid())
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, self, self, file, uintptr(a), uintptr(b), 0)
	if errno == 0 {
		return order == 0
	}
	return sameSocket(a, b)
}

func sameSocket(a, b int) bool {
	var x, y unix.Stat_t
	if errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)) != nil {
		return false
	}
	return x.Mode&unix.S_IFMT == unix.S_IFSOCK && x.Dev == y.Dev && x.Ino == y.Ino
}
