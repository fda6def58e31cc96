package supervisor

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

const (
	// spoolMax is how large a file of the spool gets before what is copied of it is
	// taken out of its beginning.
	spoolMax = 2 << 20
	// spoolMost is where also what is not copied yet is taken out: nobody reads the
	// agent's stdout, and the disk is not to fill up for that.
	spoolMost = 16 << 20
	spoolPoll = time.Second // behind the notifications
)

// spool copies what the process appends to the files of the spool to the agent's
// own stdout and stderr, as it is. The process itself needs no living agent for its
// output that way, and no open console.
type spool struct {
	log     hclog.Logger
	mu      *sync.Mutex // of written: guards f, at and lost of the streams
	written *written
	streams []*stream
}

// stream is one file of the spool. Its copier alone opens f and moves at forward.
type stream struct {
	path    string
	to      io.Writer
	failing bool // to did not take what came last
	f       *os.File
	at      int64 // what is before is copied
	lost    int64 // bytes that were taken out uncopied, and not told of yet
}

// follow begins to copy, from what is written from now on. What it returns ends
// that when all that the process has written by then is copied.
func (s *Supervisor) follow() (end func()) {
	if s.opts.Spool == "" {
		return func() {}
	}
	sp := &spool{log: s.log, mu: &s.written.mu, written: &s.written, streams: []*stream{
		{path: s.opts.Spool + ".out", to: orElse(s.opts.Stdout, os.Stdout)},
		{path: s.opts.Spool + ".err", to: orElse(s.opts.Stderr, os.Stderr)},
	}}
	for _, st := range sp.streams {
		if err := sp.open(st, io.SeekEnd); err != nil {
			s.log.Warn("cannot open the file that the process's output is to go through", "error", err)
		}
	}
	s.spool = sp
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sp.run(stop)
	}()
	return func() {
		close(stop)
		late := time.NewTimer(s.drain)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
			s.log.Warn("nobody takes the last of the process's output", "file", s.opts.Spool+".*")
		}
	}
}

func orElse(w io.Writer, other *os.File) io.Writer {
	if w == nil {
		return other
	}
	return w
}

func (sp *spool) run(stop <-chan struct{}) {
	poll := time.NewTicker(spoolPoll)
	defer poll.Stop()
	var events chan fsnotify.Event
	var errs chan error
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		sp.log.Warn("cannot watch the process's output, looking at it every now and then", "error", err)
	} else {
		defer notify.Close()
		events, errs = notify.Events, notify.Errors
	}
	watch := func(st *stream) {
		if notify == nil || st.f == nil {
			return
		}
		if err := notify.Add(st.path); err != nil {
			sp.log.Warn("cannot watch the process's output, looking at it every now and then", "file", st.path, "error", err)
		}
	}
	for _, st := range sp.streams {
		watch(st)
	}
	buf := make([]byte, 64<<10)
	for ended := false; ; {
		for _, st := range sp.streams {
			sp.copy(st, buf)
			if sp.replaced(st) {
				watch(st)
				sp.copy(st, buf)
			}
		}
		if ended {
			sp.close()
			return
		}
		select {
		case <-stop:
			ended = true
		case <-events:
		case <-errs: // events were lost, at worst
		case <-poll.C:
		}
	}
}

// open opens the stream's file, to copy from whence on.
func (sp *spool) open(st *stream, whence int) error {
	f, err := os.OpenFile(st.path, os.O_RDWR|os.O_CREATE, spoolMode)
	if err != nil {
		return err
	}
	at, err := f.Seek(0, whence)
	if err != nil {
		_ = f.Close()
		return err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if st.f != nil {
		_ = st.f.Close()
	}
	st.f, st.at = f, at
	return nil
}

func (sp *spool) close() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, st := range sp.streams {
		if st.f != nil {
			_ = st.f.Close()
			st.f = nil
		}
	}
}

// replaced opens the file that is at the stream's path by now, if it is another:
// somebody has removed the one from before, and the next process made its own.
func (sp *spool) replaced(st *stream) bool {
	if st.f == nil {
		return sp.open(st, io.SeekEnd) == nil
	}
	now, err := os.Stat(st.path)
	if err != nil {
		return false
	}
	before, err := st.f.Stat()
	return err == nil && !os.SameFile(before, now) && sp.open(st, io.SeekStart) == nil
}

// copy copies what is there when it begins. What comes meanwhile comes with a
// notification, so a process that writes all the time cannot hold it here.
func (sp *spool) copy(st *stream, buf []byte) {
	if st.f == nil {
		return
	}
	info, err := st.f.Stat()
	if err != nil {
		return
	}
	for end := info.Size(); ; {
		n, lost := sp.read(st, buf, end)
		if lost > 0 {
			sp.log.Warn("the agent's own output took too little; some of the process's is missing there", "file", st.path, "bytes", lost)
		}
		if n == 0 {
			break
		}
		_, err := st.to.Write(buf[:n])
		if err != nil && !st.failing {
			sp.log.Warn("cannot write the process's output to the agent's own; its last lines are in the file", "file", st.path, "error", err)
		}
		st.failing = err != nil // a console that is gone is tried again with the next lines
	}
	sp.trim(st)
}

// read reads on, up to end. A file that is smaller than what is copied was emptied.
func (sp *spool) read(st *stream, buf []byte, end int64) (n int, lost int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if info, err := st.f.Stat(); err == nil && info.Size() < st.at {
		st.at = 0
	}
	lost, st.lost = st.lost, 0
	if st.at < end {
		n, _ = st.f.ReadAt(buf[:min(int64(len(buf)), end-st.at)], st.at)
		st.at += int64(n)
	}
	return n, lost
}

// trim takes out what is copied, but for what Tail reads.
func (sp *spool) trim(st *stream) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	info, err := st.f.Stat()
	if err != nil || info.Size() <= spoolMax {
		return
	}
	_ = sp.cut(st, info.Size(), min(st.at, info.Size())-tailBytes, false) // bound tells of it
}

// bound keeps the files small where they are not copied. Run calls it, since the
// copier hangs in its write then.
func (sp *spool) bound() {
	if sp == nil {
		return
	}
	for _, st := range sp.streams {
		if err := sp.boundOne(st); err != nil {
			sp.log.Warn("cannot keep the file small that the process's output goes through", "file", st.path, "error", err)
		}
	}
}

func (sp *spool) boundOne(st *stream) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if st.f == nil {
		return nil
	}
	info, err := st.f.Stat()
	if err != nil || info.Size() <= spoolMost {
		return err
	}
	return sp.cut(st, info.Size(), info.Size()-spoolMax, true)
}

// cut takes the first bytes of the file out of it, in whole blocks. Where the
// filesystem cannot, the file is emptied, and lines that are written in that instant
// are lost; without force only when all is copied.
func (sp *spool) cut(st *stream, size, first int64, force bool) error {
	whole, err := takeOut(st.f, first)
	if err != nil {
		if st.at < size && !force {
			return nil
		}
		if err := st.f.Truncate(0); err != nil {
			return err
		}
		whole = size
	}
	st.lost += max(0, whole-st.at)
	st.at = max(0, st.at-whole)
	sp.written.taken(st.path, whole)
	return nil
}
