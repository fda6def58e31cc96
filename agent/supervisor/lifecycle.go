package supervisor

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// start is one attempt, from nothing to ready. Its failure is in the status.
func (s *Supervisor) start(ctx context.Context, env []string) error {
	err := s.bringUp(ctx, env)
	if err != nil && ctx.Err() == nil {
		next := *s.status.Load()
		next.LastError = err.Error()
		s.status.Store(&next)
	}
	return err
}

func (s *Supervisor) bringUp(ctx context.Context, env []string) error {
	s.enter(Starting)
	s.written.begin(s.opts)
	with, err := s.surroundings()
	var c *child
	if err == nil {
		c, err = spawn(s.opts, s.withStandby(with))
		s.forgetStandby()
	}
	if err != nil {
		s.heard.end()
		s.enter(Stopped)
		return fmt.Errorf("%w: %w", ErrStartFailed, err)
	}
	s.child = c
	c.record.Written, c.record.Watchdog = s.written.begins(), s.opts.Watchdog
	if err := c.record.write(s.opts.StateFile); err != nil {
		s.log.Warn("cannot put on record where the output of the process begins", "error", err)
	}
	s.enter(Starting)
	began := time.Now()
	err = s.opts.Limits.blamed(s.waitReady(ctx, env))
	switch {
	case err == nil:
		s.log.Info("process is up", "pid", c.pid, "after", time.Since(began).Round(time.Millisecond).String())
		s.sockets.backlog()
		s.enter(Running)
		s.heard.up()
		return nil
	case ctx.Err() != nil:
		return err
	}
	if stopErr := s.stop(); stopErr != nil {
		return fmt.Errorf("%w; and %w", err, stopErr)
	}
	return err
}

// The delays between two looks at a process that is not ready yet.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 200 * time.Millisecond
)

func (s *Supervisor) waitReady(ctx context.Context, env []string) error {
	r := s.opts.Ready
	end := time.Now().Add(r.Timeout)
	timeout := time.NewTimer(r.Timeout)
	defer timeout.Stop()
	look := time.NewTimer(max(0, r.Delay-time.Since(s.child.started)))
	defer look.Stop()
	probing := !r.Probe.empty()
	pause := firstLook
	var last error
	awaited := r.Notify
	if awaited {
		look.Stop()
		last = errNotSaid
	}
	for {
		if awaited && s.heard.isReady() {
			awaited, last = false, nil
			look.Reset(0)
		}
		select {
		case <-s.child.done:
			return fmt.Errorf("%w: it ended before it was ready (%s)", ErrStartFailed, s.child.exit)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.heard.wake:
			s.heed()
			continue
		case <-timeout.C:
			if left := s.left(startPhase, end); left > 0 {
				timeout.Reset(left)
				continue
			}
			if last == nil {
				return fmt.Errorf("%w (%s)", ErrNotReady, r.Timeout)
			}
			return fmt.Errorf("%w (%s); last: %w", ErrNotReady, r.Timeout, last)
		case <-look.C:
		}
		if probing {
			last = s.probeWhileStarting(ctx, end, env)
		}
		// One that has just ended is not up, whatever has answered; it may have named another.
		if last == nil && !s.child.mainEnds(0) {
			return nil
		}
		look.Reset(pause)
		pause = min(2*pause, lastLook)
	}
}

// probeWhileStarting asks once, within what is left of the time until end.
func (s *Supervisor) probeWhileStarting(ctx context.Context, end time.Time, env []string) error {
	left := s.left(startPhase, end)
	if left <= 0 {
		return fmt.Errorf("no answer within %s", s.opts.Ready.Timeout)
	}
	c, opts := s.child, s.opts
	return s.heedWhile(func() error { return c.probe(ctx, opts.Ready.Probe, min(left, opts.Ready.Timeout), opts, env) })
}

// killTime is how long a process may take to end after SIGKILL; what takes longer
// hangs in the kernel.
const killTime = 5 * time.Second

// stop ends the process. It is not cut short by a context: what is to be replaced
// or taken over must not be running. If the error wraps fs.ErrPermission, the process may
// not be signalled, and goes on as it was.
func (s *Supervisor) stop() error {
	if s.child == nil {
		s.enter(Stopped)
		return nil
	}
	s.sockets.backlog()
	s.catchUp() // it may have named another process, which is the one to be stopped then
	c, was := s.child, s.Status().State
	s.enter(Stopping)
	sig := s.opts.StopSignal
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	s.log.Debug("stopping the process", "pid", c.pid, "signal", sig.String())
	c.record.Stopping = true
	if err := c.record.write(s.opts.StateFile); err != nil {
		s.log.Warn("cannot put on record that the process is being stopped; should the agent be killed now, the next one would take it over", "pid", c.pid, "error", err)
	}
	c.remember()
	s.heard.enter(stopPhase)
	if err := c.signal(sig); err != nil {
		s.unstop(was)
		return fmt.Errorf("%w: %w", ErrStopFailed, err)
	}
	if !s.endsInTime(c) {
		s.log.Warn("the process did not end in time, killing it", "pid", c.pid, "timeout", s.opts.StopTimeout.String())
		c.remember()
		if err := c.signal(syscall.SIGKILL); err != nil { // what it has started goes when it has ended
			s.unstop(was)
			return fmt.Errorf("%w: %w", ErrStopFailed, err)
		}
		if !c.endsWithin(killTime) {
			return fmt.Errorf("%w: pid %d is still there %s after SIGKILL; it hangs in the kernel, see /proc/%d/wchan", ErrStopFailed, c.pid, killTime, c.pid)
		}
	}
	s.log.Info("process stopped", "pid", c.pid, "exit", c.exit.String())
	s.forget()
	s.enter(Stopped)
	return c.survived()
}

// unstop takes back what stop does to a process that it may not signal: it runs on as it
// was. One that was to be stopped because it did not come up counts as up: nothing else is
// started while it is there, and a patch may mend it.
func (s *Supervisor) unstop(was State) {
	c := s.child
	c.spare()
	c.record.Stopping = false
	if err := c.record.write(s.opts.StateFile); err != nil {
		s.log.Warn("cannot put on record that the process is not being stopped any more; should the agent be killed now, the next one would try that again", "pid", c.pid, "error", err)
	}
	if was == Starting {
		was = Running
	}
	s.enter(was)
	s.heard.up()
}

// survived is the error of an ended process that has left something which does not
// go by SIGKILL, or may have.
func (c *child) survived() error {
	switch {
	case c.unseen != nil && len(c.left) == 0:
		return fmt.Errorf("%w: what pid %d had started may be still there: %w", ErrStopFailed, c.pid, c.unseen)
	case c.unseen != nil:
		return fmt.Errorf("%w: of what pid %d had started there are still pids %v, and maybe others: %w", ErrStopFailed, c.pid, c.left, c.unseen)
	case len(c.left) == 0:
		return nil
	}
	return fmt.Errorf("%w: what pid %d had started is still there after SIGKILL: pids %v; they hang in the kernel, see /proc/PID/wchan, or start others faster than they end", ErrStopFailed, c.pid, c.left)
}

// forget takes an ended process off the record.
func (s *Supervisor) forget() {
	if c := s.child; c.killed > 0 {
		s.log.Info("killed what the process had left", "pid", c.pid, "processes", c.killed)
	}
	if err := s.child.survived(); err != nil {
		s.log.Error("something of the process survives it", "error", err)
	}
	s.flush() // what it said at its end, such as descriptors to keep
	s.heard.end()
	next := *s.status.Load()
	next.LastExit = s.endOf(s.child)
	s.status.Store(&next)
	s.child.close()
	s.child = nil
	removeState(s.opts.StateFile)
	s.sockets.tend(s.opts)
}

// exited deals with a process that has ended by itself.
func (s *Supervisor) exited() {
	c := s.child
	s.forget()
	s.restarts.lived(s.opts.Backoff, time.Since(c.started))
	log := s.log.With("pid", c.pid, "exit", s.endOf(c))
	killed := s.heard.why() != ""
	how := "ended by itself"
	if killed {
		how = "was killed by the agent"
	}
	if s.held {
		log.Error("the process " + how + " and is left down until its files are in order")
		s.enter(Stopped)
		return
	}
	if s.opts.Restart == Never || s.opts.Restart == OnFailure && c.exit.success() && !killed {
		log.Warn("the process "+how+" and is left so", "restart", string(s.opts.Restart), "hint", restartHint)
		s.enter(Ended)
		return
	}
	log.Error("the process " + how)
	s.again()
}
