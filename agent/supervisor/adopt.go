package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// ExecName is the name, os.Args[0], under which a program that supervises is to do
// nothing but call ExecMain.
const ExecName = "patchagent-exec"

// Adopt takes over the process that a killed agent left, and returns when it is
// ready, or ready.timeout is over: it is kept then too. Should it end it is not
// started again until Start, Reload or Resume. If the agent was killed while it
// stopped the process, the stop is finished instead, unless that is not permitted; if the process has ended,
// what is left of its tree is killed. It must be the first request; after an error
// nothing may be started, as there may be a process already. A ctx that is done
// only ends the wait.
func (s *Supervisor) Adopt(ctx context.Context) error {
	return s.ask(context.WithoutCancel(ctx), func() error { return s.adopt(ctx) })
}

// CameUp says whether the process that Adopt has taken over was ready in time; the error
// wraps ErrNotReady. One that has to say so itself may have said it while there was
// nobody to hear it: it is stopped and started again to find out, with the errors of
// Start. Of a process that was started here there is nothing to say.
func (s *Supervisor) CameUp(ctx context.Context, env []string) error {
	return s.ask(ctx, func() error {
		switch c := s.child; {
		case c == nil:
			return ErrNotRunning
		case c.unready == nil, errors.Is(c.unready, errNotSaid) && s.heard.isReady():
			return nil
		case !errors.Is(c.unready, errNotSaid):
			return c.unready
		}
		s.log.Info("what the process has said while there was no agent is not known, starting it again", "pid", s.child.pid)
		if err := s.stop(); err != nil {
			return err
		}
		s.restarts, s.held = attempts{}, false
		return s.start(ctx, env)
	})
}

// Release makes Run return and leaves the process running, and on record, for the
// next agent.
func (s *Supervisor) Release() {
	_ = s.ask(context.Background(), func() error {
		s.released = true
		return nil
	})
}

func (s *Supervisor) adopt(ctx context.Context) error {
	if s.child != nil {
		return nil
	}
	kept, err := s.takeKept()
	if err != nil {
		return fmt.Errorf("cannot take the sockets that an earlier agent's copy has kept: %w", err)
	}
	r, err := readRecord(s.opts.StateFile)
	if kept.is(r.PID) { // it was never told to become the process
		r = recorded{}
	}
	var c *child
	var killed int
	if err == nil && r.PID != 0 {
		c, killed, err = reopen(r)
	}
	if err != nil {
		return fmt.Errorf("cannot find out whether an earlier agent left a process running: %w", err)
	}
	if c == nil && r.PID != 0 && !r.Stopping {
		s.log.Warn("the process that an earlier agent has left has ended", "pid", r.PID)
	}
	if killed > 0 {
		s.log.Warn("killed what the ended process of an earlier agent had left", "pid", r.PID, "processes", killed)
	}
	if s.child = c; c != nil {
		s.sockets.takeBack(c, s.opts)
	}
	if (c == nil || r.Stopping) && s.sockets.any() {
		s.prepare() // should this agent be killed, too
	}
	if err := kept.letGo(); err != nil {
		return err
	}
	if c == nil {
		removeState(s.opts.StateFile)
		return nil
	}
	if r.Stopping {
		if goesOn, err := s.finishStop(); !goesOn {
			return err
		}
	}
	return s.takeOver(ctx, r)
}

// takeOver goes on with a process that an earlier agent has left, when it is ready. What
// it said while there was no agent is lost: it is waited for once, and not by each agent
// that follows.
func (s *Supervisor) takeOver(ctx context.Context, r recorded) error {
	c := s.child
	s.held = true
	s.written.resume(s.opts, r.Written)
	s.attend(c, r.Ready, r.Watchdog)
	s.enter(Starting)
	s.log.Info("process taken over", "pid", c.pid, "age", time.Since(c.started).Round(time.Second).String())
	var err error
	if r.Waited && s.opts.Ready.Notify && !r.Ready {
		err = fmt.Errorf("%w, by what an earlier agent has seen; last: %w", ErrNotReady, errNotSaid)
	} else {
		err = s.waitReady(ctx, nil)
	}
	switch {
	case errors.Is(err, ErrStartFailed):
		s.exited()
		return nil
	case ctx.Err() != nil:
		return err
	case err != nil:
		c.unready = err
		s.log.Warn("the process that was taken over is not ready, and is kept all the same", "pid", c.pid, "error", err)
		if c.record.Waited = errors.Is(err, errNotSaid); !c.record.Waited {
			break
		}
		if err := c.record.write(s.opts.StateFile); err != nil {
			s.log.Warn("cannot put on record that the process was waited for; the next agent would do so again", "pid", c.pid, "error", err)
		}
	}
	s.enter(Running)
	s.heard.up()
	return nil
}

// finishStop finishes the stop that an earlier agent began. A process that may not be
// signalled is kept instead.
func (s *Supervisor) finishStop() (goesOn bool, err error) {
	pid := s.child.pid
	s.log.Info("finishing the stop that an earlier agent began", "pid", pid)
	if err = s.stop(); !errors.Is(err, fs.ErrPermission) {
		return false, err
	}
	s.log.Warn("the process cannot be stopped, and is kept as it is", "pid", pid, "error", err)
	return true, nil
}
