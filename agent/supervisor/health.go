package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrUnhealthy is wrapped by what Watch returns when the process does not stand its
// probation.
var ErrUnhealthy = errors.New("the process is unhealthy")

// Health is what is asked of a process on probation. Without a probe being alive is
// health.
type Health struct {
	Probe
	Interval time.Duration // from one question to the next
	Timeout  time.Duration // of one question
	Failures int           // in a row: unhealthy
	Window   time.Duration // how long the probation is
}

// Sick asks before a patch how the process is: the error says what is wrong with it.
// One answer that it is well is enough; Failures in a row make it sick.
func (s *Supervisor) Sick(ctx context.Context) error {
	c, opts, err := s.patient(ctx, false)
	if err != nil {
		return err
	}
	h := opts.Health
	for failed := 1; ; failed++ {
		if err = c.probe(ctx, h.Probe, h.Timeout, opts, nil); err == nil || failed >= h.Failures {
			return err
		}
		if !sleep(ctx, c.done, h.Interval) {
			return err
		}
	}
}

// Watch is the probation of the running process. It returns nil when the window is
// over and the last answer was good; one that is not prolongs it. It returns an
// error that wraps ErrUnhealthy when Failures answers in a row were not, or as soon
// as the process ends, which is not started again then: the caller decides, and ends
// that by Resume, Start or Reload. A process that was sick before is not held to its
// answers until the first good one. env is added to the environment of the command.
func (s *Supervisor) Watch(ctx context.Context, env []string, sick bool) error {
	c, opts, err := s.patient(ctx, true)
	if err != nil {
		return err
	}
	h := opts.Health
	end := time.Now().Add(h.Window)
	failed := 0
	for {
		err := c.probe(ctx, h.Probe, h.Timeout, opts, env)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failed++
		if err == nil {
			failed, sick = 0, false
		}
		now := time.Now()
		over := !now.Before(end)
		switch {
		case c.ended():
			return fmt.Errorf("%w: it ended on probation (%s)", ErrUnhealthy, s.endOf(c))
		case failed >= h.Failures && !sick:
			return fmt.Errorf("%w: %d health checks in a row failed; the last: %w", ErrUnhealthy, failed, err)
		case over && (failed == 0 || sick):
			return nil
		}
		pause := h.Interval
		if !over {
			pause = min(pause, end.Sub(now))
		}
		if !sleep(ctx, c.done, pause) && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// patient is the process as it is now; with hold it is not started again should it
// end.
func (s *Supervisor) patient(ctx context.Context, hold bool) (*child, Options, error) {
	var c *child
	var opts Options
	err := s.ask(ctx, func() error {
		if s.child == nil {
			return fmt.Errorf("%w: it is not running", ErrUnhealthy)
		}
		c, opts = s.child, s.opts
		s.held = s.held || hold
		return nil
	})
	return c, opts, err
}

// sleep says whether it could: not if ctx or the process ended meanwhile.
func sleep(ctx context.Context, ended <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ended:
	case <-ctx.Done():
	}
	return false
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// probe asks once; the answer counts only if the process is still there.
func (c *child) probe(ctx context.Context, p Probe, timeout time.Duration, opts Options, env []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	err := p.Check(ctx, opts, env)
	if c.ended() {
		return errors.New("it has ended")
	}
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return err
}
