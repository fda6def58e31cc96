package supervisor

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"patchagent/agent/sdnotify"
)

// errNotSaid is why a process is not ready that has to say so itself.
var errNotSaid = errors.New("it has not said READY=1 to NOTIFY_SOCKET")

// heed does what the process has asked for and what only Run may do.
func (s *Supervisor) heed() {
	c := s.child
	if c == nil {
		return
	}
	n := s.heard.take()
	if n.main != nil {
		err := s.newMain(n.main.pid)
		if err != nil && s.heard.firstRefusal() {
			s.log.Warn("the process has named another as its main process, which it cannot be", "pid", c.pid, "mainpid", n.main.pid, "error", err)
		}
		s.heard.dealt(n.main, c.pid)
	}
	if n.ready != c.record.Ready || n.every != c.record.Watchdog {
		c.record.Ready, c.record.Watchdog = n.ready, n.every
		if err := c.record.write(s.opts.StateFile); err != nil {
			s.log.Warn("cannot put on record what the process says of itself; should the agent be killed, the next one would wait for it", "pid", c.pid, "error", err)
		}
	}
	if n.stopping && s.Status().State == Running {
		s.log.Info("the process says that it is stopping", "pid", c.pid)
		s.enter(Stopping)
	}
}

// heedWhile runs do, which takes its time, and does meanwhile what the process asks for:
// one that hands over to another must not be kept waiting.
func (s *Supervisor) heedWhile(do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case err := <-done:
			return err
		case <-s.heard.wake:
			s.heed()
		}
	}
}

// takenTime bounds how long a signal may wait for the process that it was sent to: on
// a busy machine it does until that has its turn.
const takenTime = 5 * time.Second

// survives says whether the main process, or who has followed it, is there for so long
// from now, and until it has taken what signals it was sent. If it says no, what an
// ended process has left is gone.
func (s *Supervisor) survives(c *child, d time.Duration) bool {
	end := time.Now().Add(d)
	last := end.Add(takenTime)
	for {
		if !c.mainEnds(time.Until(end)) {
			if !c.isToTake() || time.Now().After(last) {
				return true
			}
			end = time.Now().Add(firstLook)
			continue
		}
		for pid := c.pid; pid == c.pid; {
			select {
			case <-c.done:
				return false
			case <-s.heard.wake:
				s.heed()
			}
		}
	}
}

// catchUp does what the process has asked for until now.
func (s *Supervisor) catchUp() {
	s.flush()
	s.heed()
}

// lastWordTime bounds how long what an ended process has left is spared because it
// has named one of it as its main process: Run may be busy.
const lastWordTime = 5 * time.Second

// lastWord is called by the waiter of c when its main process has ended, and before
// anything is killed that it has left. It returns when Run has looked at whom it has
// named as the main process last, if anybody.
func (s *Supervisor) lastWord(c *child) {
	s.flush()
	candidate := s.heard.candidate(c)
	if candidate == nil {
		return
	}
	late := time.NewTimer(lastWordTime)
	defer late.Stop()
	select {
	case <-candidate.dealt:
	case <-late.C:
	}
}

// flushTime bounds the wait for the reader, which waits for nothing itself.
const flushTime = time.Second

// flush returns when all is heard that was said before.
func (s *Supervisor) flush() {
	if s.notify.Listener == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	_ = s.notify.Flush(ctx)
}

// left is how much there is of the time of a phase that would be over at end, if the
// process has not asked for more.
func (s *Supervisor) left(p phase, end time.Time) time.Duration {
	s.flush()
	return time.Until(s.heard.until(p, end))
}

// endsInTime waits for the end of a process that was told to, at most for the time
// that it has for that.
func (s *Supervisor) endsInTime(c *child) bool {
	end := time.Now().Add(s.opts.StopTimeout)
	for left := s.opts.StopTimeout; left > 0; left = s.left(stopPhase, end) {
		if c.endsWithin(left) {
			return true
		}
	}
	return c.ended()
}

// endOf says how an ended process did, and why the agent has killed it, if it has.
func (s *Supervisor) endOf(c *child) string {
	if why := s.heard.why(); why != "" {
		return c.exit.String() + "; " + why
	}
	return c.exit.String()
}

// arm sets the alarm for when the process has to have said something.
func (s *Supervisor) arm() {
	if due, _ := s.heard.alarm(s.opts.StopTimeout); due.IsZero() {
		s.alarm.Stop()
	} else {
		s.alarm.Reset(max(0, time.Until(due)))
	}
}

// alarmed kills the process if it has not said what it has to. It counts as failed,
// however it ends.
func (s *Supervisor) alarmed() {
	s.flush() // this agent may have been kept from reading for as long
	due, why := s.heard.alarm(s.opts.StopTimeout)
	c := s.child
	if due.IsZero() || time.Until(due) > 0 || c == nil {
		return
	}
	stopping := s.heard.isStopping()
	s.heard.doom(why)
	s.heard.enter(stopPhase)
	s.log.Error("killing the process", "pid", c.pid, "reason", why)
	s.enter(Stopping)
	// SIGABRT, so that it leaves a trace of where it hangs.
	if stopping || c.signal(syscall.SIGABRT) != nil || !s.endsInTime(c) {
		if err := c.signal(syscall.SIGKILL); err != nil {
			s.log.Error("the process goes on, as it may not be killed", "error", err)
			if !stopping { // that it said so stays true
				s.heard.doom("")
			}
			s.unstop(Running)
			return
		}
	}
	if !c.endsWithin(killTime) {
		s.log.Error("the process is still there after SIGKILL; it hangs in the kernel", "pid", c.pid, "look_at", fmt.Sprintf("/proc/%d/wchan", c.pid))
		return
	}
	s.exited()
}

// expect gets ready for what the process has to say to a reload.
func (s *Supervisor) expect(r Reload) error {
	if !r.Confirm {
		return nil
	}
	if s.notify.Listener == nil {
		return fmt.Errorf("it cannot confirm that it was told: %w", s.notify.trouble)
	}
	s.flush() // what was said before the process is told does not count
	s.heard.tell(sdnotify.Now())
	return nil
}

// confirmed waits until c has said that it has begun a reload and is ready again. It
// returns without an error also when c has ended.
func (s *Supervisor) confirmed(ctx context.Context, c *child, end time.Time) error {
	timer := time.NewTimer(time.Until(end))
	defer timer.Stop()
	for !s.heard.confirmed().done {
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.heard.wake:
			s.heed()
		case <-timer.C:
			if left := s.left(tellPhase, end); left > 0 {
				timer.Reset(left)
			} else if got := s.heard.confirmed(); !got.done {
				return got.missing()
			}
		}
	}
	return nil
}

// missing says what a process has not said in time.
func (c confirmation) missing() error {
	switch {
	case c.reloading:
		return errors.New("it said RELOADING=1, but not READY=1 after it within target.reload.timeout")
	case c.bare:
		return errors.New("it said READY=1 without RELOADING=1 before it, which does not confirm a reload")
	default:
		return errors.New("it did not confirm that it was told: it has to say RELOADING=1, then READY=1, within target.reload.timeout")
	}
}
