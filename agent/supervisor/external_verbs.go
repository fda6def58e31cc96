package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// start is one attempt, from nothing to ready. Its failure is in the status.
func (x *External) start(ctx context.Context, env []string) error {
	err := x.bringUp(ctx, env)
	if err != nil && ctx.Err() == nil {
		next := *x.status.Load()
		next.LastError = err.Error()
		x.status.Store(&next)
	}
	return err
}

func (x *External) bringUp(ctx context.Context, env []string) error {
	if err := x.active(ctx, env); !errors.Is(err, errInactive) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		x.log.Warn("the service may be active although it should not be, stopping it before its start")
		if err := x.stop(ctx, env); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return fmt.Errorf("%w: it was active already, and %w", ErrStartFailed, err)
		}
	}
	x.enter(Starting)
	x.said.set(nil)
	began := time.Now()
	err := x.verb(ctx, x.opts.Verbs.Start, env)
	if err == nil {
		err = x.waitReady(ctx, env)
	} else if ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrStartFailed, err)
	}
	switch {
	case err == nil:
		x.mark(false)
		x.stale, x.owed, x.starts = false, false, 0
		x.log.Info("service is up", "after", time.Since(began).Round(time.Millisecond).String())
		x.enter(Running)
		return nil
	case ctx.Err() != nil:
		return err
	}
	why := x.Tail()
	if stopErr := x.stop(ctx, env); stopErr != nil {
		err = fmt.Errorf("%w; and %w", err, stopErr)
	}
	x.said.set([]byte(why))
	return err
}

// waitReady is for a service whose start command is done.
func (x *External) waitReady(ctx context.Context, env []string) error {
	r := x.opts.Ready
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, ErrNotReady)
	defer cancel()
	if r.Probe.empty() && !sleep(ctx, nil, r.Delay) {
		return context.Cause(ctx)
	}
	seen := false
	last := errors.New("it was not asked")
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		err := x.active(ctx, env)
		switch {
		case err == nil:
			seen = true
			if err = r.Probe.Check(ctx, x.opts, env); err == nil {
				return nil
			}
		case errors.Is(err, errInactive) && (seen || time.Since(began) >= grace):
			return fmt.Errorf("%w: %w", ErrStartFailed, err)
		}
		if ctx.Err() == nil {
			last = err
		}
		if sleep(ctx, nil, pause) {
			continue
		}
		switch err := context.Cause(ctx); {
		case !errors.Is(err, ErrNotReady):
			return err
		case seen:
			return fmt.Errorf("%w (%s); last: %w", ErrNotReady, r.Timeout, last)
		default:
			return fmt.Errorf("%w: after %s: %w", ErrStartFailed, r.Timeout, last)
		}
	}
}

// stop goes by what the status command says, not by how the stop command ended. If ctx
// ends first, the service counts as stopped, whatever becomes of it.
func (x *External) stop(ctx context.Context, env []string) error {
	if x.stopped && errors.Is(x.active(ctx, env), errInactive) {
		x.mark(true)
		x.enter(Stopped)
		return nil
	}
	x.enter(Stopping)
	x.mark(true)
	x.said.set(nil)
	began := time.Now()
	told := x.verb(ctx, x.opts.Verbs.Stop, env)
	left := grace
	if told == nil {
		left = max(grace, x.opts.Verbs.Timeout-time.Since(began))
	}
	wait, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		if err := x.active(ctx, env); errors.Is(err, errInactive) {
			x.stale = false
			x.said.set(nil)
			x.log.Info("service stopped", "after", time.Since(began).Round(time.Millisecond).String())
			x.enter(Stopped)
			return nil
		}
		if !sleep(wait, nil, pause) {
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	x.record(true, time.Now()) // it was told, and may yet end
	x.log.Warn("the service was told to stop, and may yet end; it is started again then, when the patch is over", "until", x.lingers.Add(x.linger).Format(time.TimeOnly))
	x.stale = false
	x.enter(Running) // as far as anybody knows
	switch {
	case told != nil:
		return fmt.Errorf("%w: %w", ErrStopFailed, told)
	case x.doubt != "":
		return fmt.Errorf("%w: %s", ErrStopFailed, x.doubt)
	default:
		return fmt.Errorf("%w: its status command says that it is active (%s), %s after the stop command began", ErrStopFailed, x.answer, time.Since(began).Round(time.Second))
	}
}

func (x *External) reload(ctx context.Context, env []string) error {
	x.said.set(nil)
	if err := x.look(ctx, env); errors.Is(err, errInactive) {
		return ErrNotRunning
	} else if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrReloadFailed, err)
	}
	began := time.Now()
	was, err := x.tell(ctx, env)
	told := time.Since(began)
	if !was || err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		_ = x.look(ctx, env) // it may have ended
		return fmt.Errorf("%w: %w", ErrReloadFailed, err)
	}
	// A service that does not know how it was told ends at once.
	if !sleep(ctx, nil, surviveTime) {
		return context.Cause(ctx)
	}
	if err := x.look(ctx, env); err != nil {
		return fmt.Errorf("%w: when it was told: %w", ErrReloadFailed, err)
	}
	x.log.Info("service told", "took", told.Round(time.Microsecond).String())
	return nil
}

// tell says whether the service was told; without a way to it is not.
func (x *External) tell(ctx context.Context, env []string) (told bool, err error) {
	r := x.opts.Reload
	switch {
	case len(r.Exec) > 0:
		_, err = RunCommand(ctx, x.opts.command(r.Exec, env, r.Timeout))
	case r.HTTP != "":
		err = post(ctx, r.HTTP, r.Timeout)
	case len(x.opts.Verbs.Reload) > 0:
		err = x.verb(ctx, x.opts.Verbs.Reload, env)
	default:
		return false, nil
	}
	return true, err
}

// Sick is as of Supervisor.
func (x *External) Sick(ctx context.Context) error {
	opts, err := x.options(ctx)
	if err != nil {
		return err
	}
	for failed := 1; ; failed++ {
		if err = x.well(ctx, nil); err == nil || failed >= opts.Health.Failures || errors.Is(err, errInactive) {
			return err
		}
		if !sleep(ctx, nil, opts.Health.Interval) {
			return err
		}
	}
}

// Watch is as of Supervisor, but that a service that ends may be started again by its
// manager: it ends the probation if that is seen.
func (x *External) Watch(ctx context.Context, env []string, sick bool) error {
	opts, err := x.options(ctx)
	if err != nil {
		return err
	}
	h := opts.Health
	for began, failed := time.Now(), 0; ; {
		err := x.well(ctx, env)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failed++
		if err == nil {
			failed, sick = 0, false
		}
		left := h.Window - time.Since(began)
		switch {
		case errors.Is(err, errInactive):
			return fmt.Errorf("%w: on probation: %w", ErrUnhealthy, err)
		case failed >= h.Failures && !sick:
			return fmt.Errorf("%w: %d health checks in a row failed; the last: %w", ErrUnhealthy, failed, err)
		case left <= 0 && (failed == 0 || sick):
			return nil
		}
		pause := h.Interval
		if left > 0 {
			pause = min(pause, left)
		}
		if !sleep(ctx, nil, pause) {
			return context.Cause(ctx)
		}
	}
}

// well asks once: the status command, then the probe, if there is one.
func (x *External) well(ctx context.Context, env []string) error {
	opts, err := x.options(ctx)
	if err != nil {
		return err
	}
	if out, err := opts.active(ctx, env); err != nil {
		if ctx.Err() == nil {
			x.said.set(out)
		}
		return err
	}
	h := opts.Health
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("no answer within %s", h.Timeout))
	defer cancel()
	err = h.Probe.Check(ctx, opts, env)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return err
}
