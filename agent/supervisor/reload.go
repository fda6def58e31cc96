package supervisor

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// Reload is how a running process is told that its files have changed. None set:
// it is not told.
type Reload struct {
	Signal  syscall.Signal
	Exec    []string
	HTTP    string // asked by POST; 2xx is success
	Confirm bool   // it has to say RELOADING=1, then READY=1, within Timeout
	Timeout time.Duration
}

// Precheck runs the command that has to succeed on new files before the process is
// told of them, if there is one. env is added to its environment. The error says
// how it failed and what it printed.
func (s *Supervisor) Precheck(ctx context.Context, env []string) error {
	var c Command
	err := s.ask(ctx, func() error {
		c = s.opts.command(s.opts.Precheck, env, s.opts.Reload.Timeout)
		return nil
	})
	if err != nil || len(c.Args) == 0 {
		return err
	}
	_, err = RunCommand(ctx, c)
	return err
}

// surviveTime is how long a process is watched after it was told: one that does
// not know the signal ends at once.
const surviveTime = 50 * time.Millisecond

func (s *Supervisor) reload(ctx context.Context, env []string) error {
	s.held = false
	if s.child == nil {
		return ErrNotRunning
	}
	s.catchUp() // it may have named another process, which is the one to be told then
	c, r := s.child, s.opts.Reload
	s.told = c
	if err := s.expect(r); err != nil {
		return fmt.Errorf("%w: %w", ErrReloadFailed, err)
	}
	defer s.heard.enter(noPhase)
	began := time.Now()
	var err error
	switch {
	case len(r.Exec) > 0:
		tell := s.opts.command(r.Exec, env, r.Timeout)
		err = s.heedWhile(func() error { _, err := RunCommand(ctx, tell); return err })
	case r.HTTP != "":
		err = s.heedWhile(func() error { return post(ctx, r.HTTP, r.Timeout) })
	case r.Signal != 0:
		err = c.signal(r.Signal)
	default:
		return nil
	}
	told := time.Since(began)
	if err == nil && r.Confirm {
		err = s.confirmed(ctx, c, began.Add(r.Timeout))
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrReloadFailed, err)
	}
	if !s.survives(c, surviveTime) {
		s.forget()
		s.enter(Stopped)
		return fmt.Errorf("%w: it ended when it was told (%s)", ErrReloadFailed, c.exit)
	}
	if err == nil {
		s.log.Info("process told", "pid", c.pid, "took", told.Round(time.Microsecond).String())
	}
	return err
}
