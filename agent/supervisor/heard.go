package supervisor

import (
	"fmt"
	"sync"
	"time"

	"patchagent/agent/sdnotify"
)

// heard is what the process that runs now has said of itself (sd_notify(3)). The
// reader of the socket adds to it at any time, however busy Run is; Run is woken, and
// does what it is asked for. It begins anew at each start.
type heard struct {
	wake chan struct{} // something for Run; what comes while one is unread is one

	mu    sync.Mutex
	child *child         // nil: nobody is listened to
	pid   int            // of its main process
	known map[int]uint64 // others of its tree that were met, and when they were started
	said
}

// said is about one process, from its start on.
type said struct {
	ready    bool
	text     string     // STATUS
	main     *candidate // MAINPID, until Run looks at it
	looked   *candidate // Run looks at it now
	stopping time.Time  // when it said so
	fate     string     // why it is being killed, or was; "": it is not
	strange  bool       // somebody was not listened to, and that is logged
	refused  bool       // the same of a MAINPID

	former map[int]bool // were the main process

	phase    phase
	extended time.Time // its time of the phase is not over before that

	confirm confirmation
	watch   watchdog
}

// A candidate wants to be the main process.
type candidate struct {
	pid   int
	dealt chan struct{} // closed when it is, or will not be
}

// A phase is what a process can ask for more time for.
type phase string

// The phases. What is said in one counts for no other.
const (
	noPhase    phase = ""
	startPhase phase = "start"
	tellPhase  phase = "reload"
	stopPhase  phase = "stop"
)

// confirmation is of a reload.
type confirmation struct {
	since     time.Duration // sdnotify.Now before the process was told; 0: it was not
	reloading bool          // it has begun
	done      bool
	bare      bool // READY came without RELOADING before it
}

// watchdog is how a process is found out that does nothing any more.
type watchdog struct {
	every     time.Duration // there has to be a sign of life; 0: no watchdog
	sign      time.Time     // the last; zero: it is not up
	triggered bool          // it has called the watchdog itself
}

// maxExtend bounds one EXTEND_TIMEOUT_USEC: a wrong unit in it would keep the agent
// waiting for years. A process that needs longer says it again.
const maxExtend = time.Hour

// begin listens to a process from now on. As for what an earlier agent has heard of
// it: whether it was ready, and how often it has to give a sign of life.
func (h *heard) begin(c *child, ready bool, every time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
	h.child, h.pid, h.known = c, c.pid, map[int]uint64{}
	h.said = said{ready: ready, phase: startPhase, watch: watchdog{every: every}}
}

// end listens to nobody. What the process said last can still be read.
func (h *heard) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
	h.child = nil
}

// enter begins a phase. A process that has said that it stops is in that one.
func (h *heard) enter(p phase) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p == noPhase && !h.stopping.IsZero() {
		p = stopPhase
	}
	if p == stopPhase {
		h.drop()
	}
	if h.phase != p {
		h.phase, h.extended = p, time.Time{}
	}
	h.confirm = confirmation{}
}

// up is called when the process counts as up: the watchdog begins.
func (h *heard) up() {
	h.enter(noPhase)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch.sign = time.Now()
	h.call()
}

// tell begins the phase in which a reload has to be confirmed.
func (h *heard) tell(since time.Duration) {
	h.enter(tellPhase)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirm.since = since
}

// until is when the time of a phase is over that would end then.
func (h *heard) until(p phase, end time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.phase == p && h.extended.After(end) {
		return h.extended
	}
	return end
}

func (h *heard) isReady() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

func (h *heard) isStopping() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.stopping.IsZero()
}

// status is the last STATUS.
func (h *heard) status() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text
}

// why is the reason why the agent itself has killed the process, or "".
func (h *heard) why() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fate
}

func (h *heard) confirmed() confirmation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.confirm
}

// news is what Run has to do about what was said.
type news struct {
	main     *candidate
	ready    bool
	every    time.Duration
	stopping bool
}

func (h *heard) take() news {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := news{main: h.main, ready: h.ready, every: h.watch.every, stopping: !h.stopping.IsZero()}
	h.main, h.looked = nil, h.main
	return n
}

// dealt is called when Run has looked at a candidate, and pid is the main process.
func (h *heard) dealt(c *candidate, pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pid != h.pid {
		if h.former == nil {
			h.former = map[int]bool{}
		}
		h.former[h.pid] = true
		delete(h.former, pid)
	}
	h.pid, h.looked = pid, nil
	close(c.dealt)
}

// handsOver says whether a process was the main one, or is it and has named another.
// What it says of its end is about itself alone. The caller holds mu.
func (h *heard) handsOver(pid int) bool {
	if pid == h.pid {
		return h.main != nil || h.looked != nil
	}
	return h.former[pid]
}

// firstRefusal says whether a candidate that is refused is the first, of this process.
func (h *heard) firstRefusal() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !h.refused
	h.refused = true
	return first
}

// drop is for a candidate that nobody looks at any more.
func (h *heard) drop() {
	if h.main != nil {
		close(h.main.dealt)
		h.main = nil
	}
}

// candidate is who wants to be the main process of c, and neither is it nor was refused
// yet.
func (h *heard) candidate(c *child) *candidate {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.child != c:
		return nil
	case h.main != nil:
		return h.main
	default:
		return h.looked
	}
}

// alarm is when the process is to be killed if it says nothing more, and why; a zero
// time is never. stopTimeout is what it may take to end after it has said that it
// will.
func (h *heard) alarm(stopTimeout time.Duration) (due time.Time, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watch
	switch {
	case h.child == nil || h.fate != "" || h.phase != noPhase && h.stopping.IsZero():
		return time.Time{}, ""
	case !h.stopping.IsZero():
		due = h.stopping.Add(stopTimeout)
		if h.extended.After(due) {
			due = h.extended
		}
		return due, fmt.Sprintf("it said STOPPING=1 and did not end within %s", stopTimeout)
	case w.sign.IsZero():
		return time.Time{}, ""
	case w.triggered:
		return w.sign, "it said WATCHDOG=trigger"
	case w.every > 0:
		return w.sign.Add(w.every), fmt.Sprintf("it gave no sign of life (WATCHDOG=1) for %s", w.every)
	default:
		return time.Time{}, ""
	}
}

// doom puts down why the process is killed now.
func (h *heard) doom(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fate = why
}

// call wakes Run.
func (h *heard) call() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// note adds what a message says, which came from the process. The caller holds mu.
func (h *heard) note(m *sdnotify.Received) {
	switch m.State {
	case sdnotify.Stopping:
		if h.stopping.IsZero() && !h.handsOver(m.PID) {
			h.stopping = m.At
			if h.phase != stopPhase {
				h.phase, h.extended = stopPhase, time.Time{}
			}
			h.call()
		}
	case sdnotify.Ready:
		h.confirm.ready()
		h.ready = true
		h.call()
	case sdnotify.Reloading:
		h.confirm.begins(m.Monotonic)
	}
	if m.Status != nil {
		h.text = plainLine(*m.Status)
	}
	if m.MainPID != 0 && h.phase != stopPhase && (m.MainPID != h.pid || h.main != nil) {
		h.drop()
		h.main = &candidate{pid: m.MainPID, dealt: make(chan struct{})}
		h.call()
	}
	if m.Extend > 0 && h.phase != noPhase {
		if until := m.At.Add(min(m.Extend, maxExtend)); until.After(h.extended) {
			h.extended = until
			h.call()
		}
	}
	h.watch.note(m)
	if m.WatchdogEvery != nil || m.Watchdog == sdnotify.Trigger {
		h.call()
	}
}

func (c *confirmation) begins(at time.Duration) {
	if c.since != 0 && (at == 0 || at >= c.since) {
		c.reloading, c.done = true, false
	}
}

func (c *confirmation) ready() {
	if c.reloading {
		c.done = true
	} else if c.since != 0 {
		c.bare = true
	}
}

func (w *watchdog) note(m *sdnotify.Received) {
	if m.WatchdogEvery != nil {
		w.every = *m.WatchdogEvery
	}
	switch {
	case m.Watchdog == sdnotify.Trigger:
		w.triggered = true
	case w.sign.IsZero(): // it is not up, and is not watched yet
	case m.Watchdog == sdnotify.Alive, m.WatchdogEvery != nil:
		w.sign = m.At
	}
}
