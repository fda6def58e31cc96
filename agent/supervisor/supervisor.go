// Package supervisor keeps one process running and is the only part of the
// program that starts, signals or waits for it.
//
// One goroutine, Run, owns the process. What others want of it they ask for
// (Start, Stop, Reload, Resume, Configure); the requests are carried out one after
// the other, between the process's own exits and the restarts that follow them.
//
// A process is started in a process group of its own, with a minimal environment
// and its output going straight to a file, never through a pipe: it needs no living
// agent. What goes to the agent's own output is copied from such a file. It is up when its readiness check says so. It is
// stopped by a signal, and after a while by SIGKILL to all of its group; whatever
// of the group is left when the process itself has ended is killed as well, before
// its number can belong to anybody else.
//
// A process that ends by itself is started again as the policy says, after a
// delay that doubles each time, until a limit is reached. A process that a patch
// starts is different: its failure is reported and the process stays down, for the
// caller to undo the patch.
//
// An agent that is killed leaves its process running. The next one finds it by the
// state file (number, start time, boot) and takes it over, so that there are never
// two and it need not end. That holds at any instant: what is started begins as a
// copy of the agent, which executes the program only when it is on record, and
// ends if the agent does before that (exec_linux.go).
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Errors that callers decide on; they are wrapped with what happened.
var (
	ErrStartFailed  = errors.New("the process did not come up")
	ErrNotReady     = errors.New("the process was not ready in time")
	ErrStopFailed   = errors.New("the process does not end")
	ErrReloadFailed = errors.New("the process could not be told")
	ErrNotRunning   = errors.New("the process is not running")
	errEnded        = errors.New("the supervisor has ended")
)

// Supervisor keeps one process. Its methods may be called from any goroutine
// while Run runs.
type Supervisor struct {
	log      hclog.Logger
	requests chan request
	ended    chan struct{}
	changed  chan struct{}
	status   atomic.Pointer[Status]
	next     atomic.Pointer[Options] // to be taken over between two requests
	written  written

	// Owned by Run.
	opts     Options
	child    *child
	restarts int  // in a row
	held     bool // a process that ends now is not started again
	retry    *time.Timer
	released bool // Run leaves the process to the next agent
	spool    *spool
}

type request struct {
	do    func() error
	reply chan error
}

// New returns a Supervisor with no process; Run makes it work.
func New(opts Options, log hclog.Logger) *Supervisor {
	retry := time.NewTimer(0)
	retry.Stop()
	s := &Supervisor{
		log: log, opts: opts, retry: retry,
		requests: make(chan request), ended: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	s.status.Store(&Status{State: Stopped})
	return s
}

// outputCheck is how often the size of the output is looked at.
const outputCheck = 5 * time.Second

// Run owns the process until ctx is done; then it stops it, and returns when it
// and all that it started have ended. The error says what survived. After Release
// it returns at once.
func (s *Supervisor) Run(ctx context.Context) error {
	defer close(s.ended)
	defer s.follow()()
	rotate := time.NewTicker(outputCheck)
	defer rotate.Stop()
	for {
		var exited <-chan struct{}
		if s.child != nil {
			exited = s.child.done
		}
		select {
		case <-ctx.Done():
			s.configure()
			return s.stop()
		case r := <-s.requests:
			s.configure()
			r.reply <- r.do()
			if s.released {
				return nil
			}
		case <-exited:
			s.configure()
			s.exited()
		case <-s.retry.C:
			s.configure()
			s.startAgain(ctx)
		case <-rotate.C:
			s.rotate()
		}
	}
}

// configure takes over what Configure has left.
func (s *Supervisor) configure() {
	if next := s.next.Swap(nil); next != nil {
		s.opts = *next
	}
}

// ask has Run carry out do.
func (s *Supervisor) ask(ctx context.Context, do func() error) error {
	r := request{do: do, reply: make(chan error, 1)}
	select {
	case s.requests <- r:
		return <-r.reply
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ended:
		return errEnded
	}
}

// Status returns what the process is doing.
func (s *Supervisor) Status() Status { return *s.status.Load() }

// Up says whether the process is running and ready.
func (s *Supervisor) Up() bool { return s.Status().State == Running }

// Changed wakes whoever waits for a change of the state; changes that come while
// one is unread are one.
func (s *Supervisor) Changed() <-chan struct{} { return s.changed }

// Configure replaces the options. A running process is not touched: what
// concerns its start counts from the next one.
func (s *Supervisor) Configure(opts Options) {
	s.next.Store(&opts)
}

// Start starts the process and returns when it is ready. env is added to the
// environment of the readiness command. After an error nothing of it is left, and
// it stays down; the error wraps ErrNotReady if it was alive at the timeout and
// ErrStartFailed otherwise. If ctx ends first, the process is left as it is.
func (s *Supervisor) Start(ctx context.Context, env []string) error {
	return s.ask(ctx, func() error {
		if s.child != nil {
			return fmt.Errorf("%w: it is running already, as pid %d", ErrStartFailed, s.child.pid)
		}
		s.retry.Stop()
		s.restarts, s.held = 0, false
		return s.start(ctx, env)
	})
}

// Resume starts the process if it is down, and keeps trying as the policy says.
// It does not wait.
func (s *Supervisor) Resume() {
	_ = s.ask(context.Background(), func() error {
		s.held = false
		if s.child == nil {
			s.restarts = 0
			s.enter(Starting)
			s.retry.Reset(0)
		}
		return nil
	})
}

// Hold leaves the process as it is, but should it end, or have ended, it is not
// started again until Start, Reload or Resume: its files are being changed.
func (s *Supervisor) Hold(ctx context.Context) error {
	return s.ask(ctx, func() error {
		s.held = true
		s.retry.Stop()
		if s.child == nil {
			s.enter(Stopped)
		}
		return nil
	})
}

// Stop ends the process and all of its group, and keeps it down. It is no error
// if it is down. The error wraps ErrStopFailed if something survives.
func (s *Supervisor) Stop(ctx context.Context) error {
	return s.ask(ctx, func() error { s.retry.Stop(); return s.stop() })
}

// Reload tells the running process that its files have changed and sees to it
// that it survives that. env is added to the environment of the command. The error
// wraps ErrNotRunning or ErrReloadFailed.
func (s *Supervisor) Reload(ctx context.Context, env []string) error {
	return s.ask(ctx, func() error { return s.reload(ctx, env) })
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

func (s *Supervisor) enter(state State) {
	next := *s.status.Load()
	next.State, next.PID, next.Since, next.Restarts = state, 0, time.Now(), s.restarts
	if s.child != nil {
		next.PID = s.child.pid
	}
	s.status.Store(&next)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// start is one attempt, from nothing to ready.
func (s *Supervisor) start(ctx context.Context, env []string) error {
	s.enter(Starting)
	s.written.begin(s.opts)
	c, err := spawn(s.opts)
	if err != nil {
		s.enter(Stopped)
		return fmt.Errorf("%w: %w", ErrStartFailed, err)
	}
	s.child = c
	c.record.Written = s.written.begins()
	if err := c.record.write(s.opts.StateFile); err != nil {
		s.log.Warn("cannot put on record where the output of the process begins", "error", err)
	}
	s.enter(Starting)
	began := time.Now()
	err = s.waitReady(ctx, env)
	switch {
	case err == nil:
		s.log.Info("process is up", "pid", c.pid, "after", time.Since(began).Round(time.Millisecond).String())
		s.enter(Running)
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
	timeout := time.NewTimer(r.Timeout)
	defer timeout.Stop()
	look := time.NewTimer(max(0, r.Delay-time.Since(s.child.started)))
	defer look.Stop()
	probing := !r.Probe.empty()
	pause := firstLook
	var last error
	for {
		select {
		case <-s.child.done:
			return fmt.Errorf("%w: it ended before it was ready (%s)", ErrStartFailed, s.child.exit)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			if last == nil {
				return fmt.Errorf("%w (%s)", ErrNotReady, r.Timeout)
			}
			return fmt.Errorf("%w (%s); last: %w", ErrNotReady, r.Timeout, last)
		case <-look.C:
		}
		if !probing {
			return nil
		}
		if last = s.child.probe(ctx, r.Probe, r.Timeout, s.opts, env); last == nil {
			return nil
		}
		look.Reset(pause)
		pause = min(2*pause, lastLook)
	}
}

// killTime is how long a process may take to end after SIGKILL; what takes longer
// hangs in the kernel.
const killTime = 5 * time.Second

// stop ends the process. It is not cut short by a context: what is to be replaced
// or taken over must not be running.
func (s *Supervisor) stop() error {
	if s.child == nil {
		s.enter(Stopped)
		return nil
	}
	s.enter(Stopping)
	c := s.child
	sig := s.opts.StopSignal
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	s.log.Debug("stopping the process", "pid", c.pid, "signal", sig.String())
	c.record.Stopping = true
	if err := c.record.write(s.opts.StateFile); err != nil {
		s.log.Warn("cannot put on record that the process is being stopped; should the agent be killed now, the next one would take it over", "pid", c.pid, "error", err)
	}
	if err := c.signal(sig); err != nil {
		return fmt.Errorf("%w: %w", ErrStopFailed, err)
	}
	if !c.endsWithin(s.opts.StopTimeout) {
		s.log.Warn("the process did not end in time, killing it", "pid", c.pid, "timeout", s.opts.StopTimeout.String())
		_ = c.signal(syscall.SIGKILL) // the group goes when it has ended
		if !c.endsWithin(killTime) {
			return fmt.Errorf("%w: pid %d is still there %s after SIGKILL; it hangs in the kernel, see /proc/%d/wchan", ErrStopFailed, c.pid, killTime, c.pid)
		}
	}
	s.log.Info("process stopped", "pid", c.pid, "exit", c.exit.String())
	s.forget()
	s.enter(Stopped)
	return nil
}

// forget takes an ended process off the record.
func (s *Supervisor) forget() {
	next := *s.status.Load()
	next.LastExit = s.child.exit.String()
	s.status.Store(&next)
	s.child.close()
	s.child = nil
	removeState(s.opts.StateFile)
}

// exited deals with a process that has ended by itself.
func (s *Supervisor) exited() {
	c := s.child
	s.forget()
	if time.Since(c.started) >= s.opts.Backoff.withDefaults().Quiet {
		s.restarts = 0
	}
	log := s.log.With("pid", c.pid, "exit", c.exit.String())
	if s.held {
		log.Error("the process ended by itself and is left down until its files are in order")
		s.enter(Stopped)
		return
	}
	if s.opts.Restart == Never || s.opts.Restart == OnFailure && c.exit.success() {
		log.Warn("the process ended by itself and is left so", "restart", string(s.opts.Restart))
		s.enter(Ended)
		return
	}
	log.Error("the process ended by itself")
	s.again()
}

// again plans the next attempt, or gives up.
func (s *Supervisor) again() {
	b := s.opts.Backoff.withDefaults()
	if s.restarts >= b.Limit {
		s.log.Error("the process does not stay up; it is left down until a patch or a new start of the agent", "attempts", s.restarts)
		s.enter(Failed)
		return
	}
	delay := min(b.First<<min(s.restarts, 30), b.Max)
	delay += rand.N(delay/5 + 1) // so that many machines do not do it all at once
	s.restarts++
	s.log.Info("starting the process again", "attempt", s.restarts, "delay", delay.Round(time.Millisecond).String())
	s.enter(Waiting)
	s.retry.Reset(delay)
}

func (s *Supervisor) startAgain(ctx context.Context) {
	if s.child != nil {
		return
	}
	if err := s.start(ctx, nil); err != nil && ctx.Err() == nil {
		s.log.Error("cannot start the process", "error", err)
		if s.opts.Restart == Never {
			s.enter(Failed)
			return
		}
		s.again()
	}
}

// surviveTime is how long a process is watched after it was told: one that does
// not know the signal ends at once.
const surviveTime = 50 * time.Millisecond

func (s *Supervisor) reload(ctx context.Context, env []string) error {
	s.held = false
	if s.child == nil {
		return ErrNotRunning
	}
	c, r := s.child, s.opts.Reload
	began := time.Now()
	var err error
	switch {
	case len(r.Exec) > 0:
		_, err = RunCommand(ctx, s.opts.command(r.Exec, env, r.Timeout))
	case r.HTTP != "":
		err = post(ctx, r.HTTP, r.Timeout)
	case r.Signal != 0:
		err = c.signal(r.Signal)
	default:
		return nil
	}
	told := time.Since(began)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrReloadFailed, err)
	}
	if c.endsWithin(surviveTime) {
		s.forget()
		s.enter(Stopped)
		return fmt.Errorf("%w: it ended when it was told (%s)", ErrReloadFailed, c.exit)
	}
	if err == nil {
		s.log.Info("process told", "pid", c.pid, "took", told.Round(time.Microsecond).String())
	}
	return err
}
