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
// stopped by a signal, and after a while by SIGKILL. Whatever it has started and is
// left when it has ended is killed: all of its cgroup, where it can have one, and
// elsewhere its group, what descends from it, and what has the mark of this start in
// its environment (tree_linux.go). No number is signalled that may be another's.
//
// A process that ends by itself is started again as the policy says, after a
// delay that doubles each time, until there were too many within a time. A process that a patch
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
	"reflect"
	"sync/atomic"
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
	fresh    chan struct{}           // wakes Run for next
	written  written
	heard    heard
	store    store

	// Owned by Run.
	opts     Options
	child    *child
	told     *child // that came up, or was told, last; for StillUp
	restarts attempts
	held     bool // a process that ends now is not started again
	retry    *time.Timer
	released bool // Run leaves the process to the next agent
	spool    *spool
	drain    time.Duration // drainTime
	notify   listening
	alarm    *time.Timer // the process has not said what it has to say by then
	sockets  sockets
	standby  *standby // made by Prepare
}

type request struct {
	do    func() error
	reply chan error
}

// New returns a Supervisor with no process; Run makes it work.
func New(opts Options, log hclog.Logger) *Supervisor {
	retry, alarm := time.NewTimer(0), time.NewTimer(0)
	retry.Stop()
	alarm.Stop()
	s := &Supervisor{
		log: log, opts: opts, retry: retry, alarm: alarm, heard: heard{wake: make(chan struct{}, 1)}, sockets: sockets{log: log}, drain: drainTime,
		requests: make(chan request), ended: make(chan struct{}), changed: make(chan struct{}, 1), fresh: make(chan struct{}, 1),
	}
	s.status.Store(&Status{State: Stopped})
	return s
}

const (
	// outputCheck is how often the size of the output is looked at.
	outputCheck = 5 * time.Second
	// drainTime bounds the wait for the last lines of the output: a write to a pipe that
	// nobody reads cannot be interrupted, and the agent is to end all the same.
	drainTime = 2 * time.Second
)

// Run owns the process until ctx is done; then it stops it, and returns when it
// and all that it started have ended. The error says what survived. After Release
// it returns at once.
func (s *Supervisor) Run(ctx context.Context) error {
	defer close(s.ended)
	defer s.follow()()
	defer s.listen()()
	defer s.dismiss()
	rotate := time.NewTicker(outputCheck)
	defer rotate.Stop()
	for {
		var exited <-chan struct{}
		if s.child != nil {
			exited = s.child.done
		}
		s.arm()
		select {
		case <-ctx.Done():
			s.configure()
			return s.finish()
		case r := <-s.requests:
			s.configure()
			r.reply <- r.do()
			if s.released {
				s.sockets.close(false)
				return nil
			}
		case <-exited:
			s.configure()
			s.exited()
		case <-s.retry.C:
			s.configure()
			s.startAgain(ctx)
		case <-s.fresh:
			s.configure()
		case <-s.heard.wake:
			s.configure()
			s.heed()
		case <-s.alarm.C:
			s.configure()
			s.alarmed()
		case <-rotate.C:
			s.rotate()
			s.store.prune()
		}
	}
}

// finish is the orderly end.
func (s *Supervisor) finish() error {
	err := s.stop()
	s.sockets.close(err == nil)
	return err
}

// configure takes over what Configure has left. A process that did not come up, or did
// not stay up, as it was to be started has all its attempts again as it is to be now.
func (s *Supervisor) configure() {
	next := s.next.Swap(nil)
	if next == nil {
		return
	}
	same := reflect.DeepEqual(s.opts.startsBy(), next.startsBy())
	s.opts = *next
	if state := s.Status().State; same || s.child != nil || state != Failed && state != Waiting {
		return
	}
	s.log.Info("the process is to be started in another way now, trying anew")
	s.restarts = attempts{}
	s.enter(Starting)
	s.retry.Reset(0)
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
func (s *Supervisor) Status() Status {
	status := *s.status.Load()
	status.Text = s.heard.status()
	return status
}

// Up says whether the process is running and ready.
func (s *Supervisor) Up() bool { return s.Status().State == Running }

// Changed wakes whoever waits for a change of the state; changes that come while
// one is unread are one.
func (s *Supervisor) Changed() <-chan struct{} { return s.changed }

// Configure replaces the options. A running process is not touched: what
// concerns its start counts from the next one. One that is to be started again, or was
// left down because it failed too often, is started anew if that has changed.
func (s *Supervisor) Configure(opts Options) {
	s.next.Store(&opts)
	select {
	case s.fresh <- struct{}{}:
	default:
	}
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
		s.restarts, s.held = attempts{}, false
		err := s.start(ctx, env)
		s.told = s.child
		return err
	})
}

// Resume starts the process if it is down, and keeps trying as the policy says.
// It does not wait.
func (s *Supervisor) Resume() {
	_ = s.ask(context.Background(), func() error {
		s.held = false
		if s.child != nil {
			s.dismiss()
		} else {
			s.restarts = attempts{}
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

// Prepare gets ready what the next Start needs, so that the process is away for a
// shorter time: a waiting copy of this program, with all that the process inherits.
// What it cannot get ready, Start does. It is let go if it turns out to be of no use, at
// Resume if the process runs, and at the end of Run. Should the agent be killed while
// there is no process, the copy keeps the sockets for the next one (Adopt).
func (s *Supervisor) Prepare(ctx context.Context) {
	_ = s.ask(ctx, func() error { s.prepare(); return nil })
}

// Stop ends the process and all that it has started, and keeps it down. It is no error
// if it is down. The error wraps ErrStopFailed if something survives.
func (s *Supervisor) Stop(ctx context.Context) error {
	return s.ask(ctx, func() error {
		s.retry.Stop()
		err := s.stop()
		if err != nil {
			s.dismiss()
		}
		return err
	})
}

// Reload tells the running process that its files have changed and sees to it
// that it survives that. env is added to the environment of the command. The error
// wraps ErrNotRunning or ErrReloadFailed.
func (s *Supervisor) Reload(ctx context.Context, env []string) error {
	return s.ask(ctx, func() error { return s.reload(ctx, env) })
}

// StillUp says whether a process that came up, or was told, is there still. The error
// wraps ErrStartFailed.
func (s *Supervisor) StillUp(ctx context.Context) error {
	return s.ask(ctx, func() error {
		switch c := s.child; {
		case c != nil && !s.survives(c, 0):
			return fmt.Errorf("%w: it ended right after it was up (%s)", ErrStartFailed, s.endOf(c))
		case s.Status().State != Running, s.told != nil && c != s.told: // another was started since
			return fmt.Errorf("%w: it ended right after it was up (%s)", ErrStartFailed, s.Status().LastExit)
		default:
			return nil
		}
	})
}

func (s *Supervisor) enter(state State) {
	next := *s.status.Load()
	next.State, next.PID, next.Since, next.Restarts = state, 0, time.Now(), s.restarts.row
	if s.child != nil {
		next.PID = s.child.pid
	}
	if state == Running {
		next.LastError = ""
	}
	s.status.Store(&next)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
