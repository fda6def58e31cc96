package supervisor

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// spareCount is enough to look at all processes one after the other and to kill some
// at a time.
const spareCount = 4

// spares are descriptors that are kept free for the end of a process: an agent that
// has no other left could neither find nor kill what it leaves. The zero value has none.
type spares struct {
	mu   sync.Mutex
	fds  []int
	over bool
}

// keep takes as many as there are, up to spareCount.
func (s *spares) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && len(s.fds) < spareCount {
		fd, err := unix.Open(os.DevNull, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		s.fds = append(s.fds, fd)
	}
}

// lend frees them until keep.
func (s *spares) lend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
	s.fds = nil
}

// giveUp frees them for good.
func (s *spares) giveUp() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.lend()
}
