package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Verbs are the commands by which another manager is asked about its service. They run
// in the surroundings that Options give to a process.
type Verbs struct {
	Start   []string // ends when the service is started
	Stop    []string
	Reload  []string // used where Options.Reload has no other way
	Status  []string // see External
	Timeout time.Duration
}

// External is a service that another manager runs: systemd, docker, an init script. It
// has the methods of a Supervisor, and the service no parent here: it has no number, its
// output is its manager's, and it is started again by its manager's policy.
//
// Whether it is up is what the status command says, by the convention of init scripts
// and of `systemctl is-active`: status 0 is active, any other is not. It is asked before
// and after each verb, and now and then in between. One that cannot be run, is ended by
// a signal, takes longer than the timeout, or says 126 or 127 as a shell does that
// cannot run it, says nothing: the state stays as it was, and nothing counts as stopped.
//
// The end of Run leaves the service as it is. Only what this External has stopped and
// could not start again is it that starts it (Resume): its manager was told to keep it
// down. That goes for a service that ends after a stop that has failed, too: it was told
// to. If it is active lingerTime after that, it is taken not to have heeded it.
type External struct {
	log      hclog.Logger
	pause    time.Duration // statusPause
	linger   time.Duration // lingerTime
	requests chan request
	ended    chan struct{}
	changed  chan struct{}
	status   atomic.Pointer[Status]
	next     atomic.Pointer[Options] // to be taken over between two requests
	resume   atomic.Bool             // Resume was called, and Run has not got to it yet
	wake     chan struct{}           // for that
	said     lastOutput

	// Owned by Run.
	opts     Options
	stopped  bool      // here, or by an earlier agent, and not started since; on record
	lingers  time.Time // stopped, but when that was given up it had not ended: it may yet; on record
	stale    bool      // stopped by an earlier agent, and started by others: nobody knows on which files
	owed     bool      // stopped is to end: Resume
	starts   int       // that failed, in a row, while it is owed
	doubt    string    // why the status command has given no answer, the last time
	answer   string    // that it gave last
	released bool
}

// lastOutput is what Tail returns: the output of the command that failed last.
type lastOutput struct {
	mu   sync.Mutex
	text string
}

func (s *lastOutput) set(out []byte) {
	text := strings.Join(plainLines(out), "\n")
	s.mu.Lock()
	s.text = text
	s.mu.Unlock()
}

// NewExternal returns an External that knows nothing yet; Run makes it work.
func NewExternal(opts Options, log hclog.Logger) *External {
	x := &External{
		log: log, opts: opts, pause: statusPause, linger: lingerTime,
		requests: make(chan request), ended: make(chan struct{}), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
	x.status.Store(&Status{State: Ended, External: true})
	return x
}

const (
	// statusPause is the time between two questions to the status command while nothing
	// else happens. Each is a process or two, and nothing but `status` waits for the
	// answer: a patch asks anew.
	statusPause = 10 * time.Second

	// grace is how long the status command may still say the opposite when a command is
	// over: some managers note what was done a moment later.
	grace = time.Second

	// lingerTime is how long after a stop that has failed the end of the service is taken
	// for its consequence: longer than services take to finish their work (systemd gives
	// them 90 s), and shorter than it takes until somebody stops it for another reason.
	lingerTime = 5 * time.Minute

	// mostStarts is how often a service that a patch has stopped is tried to be started
	// again, at statusPause: more than that is for an operator.
	mostStarts = 50
)

// Run answers requests and follows the service until ctx is done or Release is called.
// It leaves the service as it is.
func (x *External) Run(ctx context.Context) error {
	defer close(x.ended)
	tick := time.NewTicker(x.pause)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case r := <-x.requests:
			x.goOn(ctx) // in the order of the calls
			x.configure()
			r.reply <- r.do()
			if x.released {
				return nil
			}
		case <-x.wake:
			x.goOn(ctx)
		case <-tick.C:
			x.goOn(ctx)
			x.configure()
			x.follow(ctx)
			tick.Reset(x.pause) // it may have taken longer than that, and requests come first then
		}
		if x.due() && x.starts == 0 {
			x.startAgain(ctx)
		}
	}
	return nil
}

// due says whether the service is down and is to be started now.
func (x *External) due() bool { return x.owed && x.lingers.IsZero() }

func (x *External) configure() {
	if next := x.next.Swap(nil); next != nil {
		x.opts = *next
	}
}

// follow looks at the service when nothing has happened.
func (x *External) follow(ctx context.Context) {
	if x.due() {
		x.startAgain(ctx)
		return
	}
	was := x.Status().State
	switch err := x.look(ctx, nil); {
	case was == x.Status().State:
	case err == nil:
		x.log.Info("the service is active again")
	case x.due():
		x.log.Warn("the service has ended after all, as it was told to for a patch; it is started again")
	default:
		x.log.Error("the service is no longer active; its manager decides what becomes of it", "answer", err)
	}
}

func (x *External) startAgain(ctx context.Context) {
	if x.look(ctx, nil) == nil {
		x.owed = false // somebody has started it
		x.log.Info("the service is active again")
		return
	}
	err := x.start(ctx, nil)
	if err == nil || ctx.Err() != nil {
		return
	}
	if x.starts++; x.starts >= mostStarts {
		x.owed = false
		x.log.Error("the service does not come up; it is left down until a restart, a patch, or until its manager is told to start it", "attempts", x.starts, "error", err, "hint", restartHint)
		x.enter(Failed)
		return
	}
	x.log.Error("cannot start the service, trying again", "error", err, "delay", x.pause.String())
	x.enter(Waiting)
}

// ask has Run carry out do.
func (x *External) ask(ctx context.Context, do func() error) error {
	r := request{do: do, reply: make(chan error, 1)}
	select {
	case x.requests <- r:
		return <-r.reply
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-x.ended:
		return errEnded
	}
}

// Status returns what the service is doing. It has no number here.
func (x *External) Status() Status { return *x.status.Load() }

// Up says whether the service was active and ready when it was last looked at.
func (x *External) Up() bool { return x.Status().State == Running }

// StillUp is of no use here: Start and Reload return when the service's own manager has
// said that it is up, and that is what there is to ask.
func (x *External) StillUp(context.Context) error { return nil }

// Changed is as of Supervisor.
func (x *External) Changed() <-chan struct{} { return x.changed }

// Configure replaces the options, from the next request on.
func (x *External) Configure(opts Options) { x.next.Store(&opts) }

// Tail returns the last lines that the command printed that failed last, of start, stop,
// reload and status; empty if none has since the last start.
func (x *External) Tail() string {
	x.said.mu.Lock()
	defer x.said.mu.Unlock()
	return x.said.text
}

// Adopt finds out what the service is doing. One that is not active is left so. One that
// an earlier agent has stopped for a patch counts as stopped, even if it is active by
// now, until Start or Resume; one that it could not stop does not.
func (x *External) Adopt(ctx context.Context) error {
	return x.ask(ctx, func() error {
		x.stopped, x.lingers = x.marked()
		x.stale = x.stopped && x.lingers.IsZero()
		switch err := x.look(ctx, nil); {
		case err == nil && !x.lingers.IsZero():
			x.log.Warn("the service is active, although an earlier agent has told it to stop; should it end after all, it is started again", "until", x.lingers.Add(x.linger).Format(time.TimeOnly))
		case err == nil && x.stale:
			x.log.Warn("the service is active, although an earlier agent has stopped it and not started it again")
		case err == nil:
			x.log.Info("the service is active")
		case errors.Is(err, errInactive) && x.stopped:
			x.log.Warn("an earlier agent has stopped the service and not started it again", "answer", err)
		case errors.Is(err, errInactive):
			x.log.Warn("the service is not active, and is left so: its manager decides; if it is up, target.external.status is wrong", "answer", err)
		}
		return nil
	})
}

// CameUp has nothing to say: a service counts as stopped until it was ready.
func (x *External) CameUp(context.Context, []string) error { return nil }

// Release makes Run return.
func (x *External) Release() {
	_ = x.ask(context.Background(), func() error {
		x.released = true
		return nil
	})
}

// Start has the service started and returns when it is active and ready. If its manager
// has started it meanwhile it is stopped first: nobody knows which files it has seen.
// After an error it is stopped again; the error wraps ErrNotReady if it was active at
// the timeout and ErrStartFailed otherwise. If ctx ends first, it is left as it is.
func (x *External) Start(ctx context.Context, env []string) error {
	return x.ask(ctx, func() error {
		x.owed = false
		return x.start(ctx, env)
	})
}

// Stop has the service stopped, whatever it is doing, so that its manager does not start
// it again. The error wraps ErrStopFailed if the status command does not say within the
// timeout that it is not active. It is not cut short by ctx.
func (x *External) Stop(ctx context.Context, env []string) error {
	return x.ask(ctx, func() error {
		x.owed = false
		return x.stop(context.WithoutCancel(ctx), env)
	})
}

// Hold finds out what the service is doing. Its manager cannot be kept from starting it.
func (x *External) Hold(ctx context.Context) error {
	return x.ask(ctx, func() error {
		x.owed = false
		_ = x.look(ctx, nil) // without an answer the state stays
		return nil
	})
}

// Prepare has nothing to get ready.
func (x *External) Prepare(context.Context) {}

// Resume has the service started, without waiting for it, if it is down because it was
// stopped here; and again until it is up. One that could not be stopped is started
// should it end after all.
func (x *External) Resume() {
	x.resume.Store(true)
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// goOn does what Resume was called for, if it was.
func (x *External) goOn(ctx context.Context) {
	if !x.resume.Swap(false) {
		return
	}
	x.configure()
	if x.stale {
		x.stale = false // what it was stopped for is over
		_ = x.look(ctx, nil)
	}
	x.owed, x.starts = x.stopped, 0
}

// Reload tells the service that its files have changed, and asks whether it has survived
// that. The error wraps ErrNotRunning or ErrReloadFailed.
func (x *External) Reload(ctx context.Context, env []string) error {
	return x.ask(ctx, func() error { return x.reload(ctx, env) })
}

// Precheck is as of Supervisor.
func (x *External) Precheck(ctx context.Context, env []string) error {
	opts, err := x.options(ctx)
	if err != nil || len(opts.Precheck) == 0 {
		return err
	}
	_, err = RunCommand(ctx, opts.command(opts.Precheck, env, opts.Reload.Timeout))
	return err
}

// Hook is as of Supervisor.
func (x *External) Hook(ctx context.Context, event string, env []string) error {
	opts, err := x.options(ctx)
	if err != nil {
		return err
	}
	return opts.hook(ctx, x.log, event, env)
}

func (x *External) options(ctx context.Context) (opts Options, err error) {
	err = x.ask(ctx, func() error { opts = x.opts; return nil })
	return opts, err
}

// verb runs one of the commands that change something.
func (x *External) verb(ctx context.Context, args, env []string) error {
	out, err := RunCommand(ctx, x.opts.command(args, env, x.opts.Verbs.Timeout))
	if err != nil {
		x.said.set(out)
	}
	return err
}

// errInactive is what the status command says by its status.
var errInactive = errors.New("the service is not active")

// active asks the status command: nil is yes, errInactive no, anything else no answer.
func (o Options) active(ctx context.Context, env []string) (out []byte, err error) {
	out, err = RunCommand(ctx, o.command(o.Verbs.Status, env, o.Verbs.Timeout))
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.Exited() && e.ExitCode() != 126 && e.ExitCode() != 127 {
		err = fmt.Errorf("%w (%s)", errInactive, answerOf(e.ExitCode(), out))
	}
	return out, err
}

// answerOf is an answer of the status command for people: a wrong command can be told
// from a service that is down by what it prints.
func answerOf(status int, out []byte) string {
	text := fmt.Sprintf("exit status %d", status)
	if lines := plainLines(out); len(lines) > 0 {
		text += fmt.Sprintf("; it printed: %q", lines[len(lines)-1])
	}
	return text
}

// AskStatus asks the status command once. answer is for people, and has its exit status
// and the last line that it has printed; the error is that it gives no answer.
func (o Options) AskStatus(ctx context.Context) (active bool, answer string, err error) {
	switch out, err := o.active(ctx, nil); {
	case err == nil:
		return true, fmt.Sprintf("the service is active (%s)", answerOf(0, out)), nil
	case errors.Is(err, errInactive):
		return false, err.Error(), nil
	default:
		return false, "", err
	}
}

// look is active, and makes the answer the state; without one that stays.
func (x *External) look(ctx context.Context, env []string) error {
	err := x.active(ctx, env)
	switch {
	case err == nil && x.stale:
		x.enter(Stopped)
	case err == nil:
		if time.Since(x.lingers) >= x.linger { // which holds if it does not linger
			x.mark(false)
		}
		x.enter(Running)
	case errors.Is(err, errInactive) && x.stopped && x.Status().State != Failed:
		x.mark(true)
		x.stale = false
		x.enter(Stopped)
	case errors.Is(err, errInactive) && !x.stopped:
		x.enter(Ended)
	}
	return err
}

// active is Options.active; that there is no answer is logged, once.
func (x *External) active(ctx context.Context, env []string) error {
	out, err := x.opts.active(ctx, env)
	doubt := ""
	if err != nil && ctx.Err() == nil {
		x.said.set(out)
		if !errors.Is(err, errInactive) {
			doubt = err.Error()
		}
	}
	if doubt != "" && doubt != x.doubt {
		x.log.Error("the status command does not say whether the service is active", "error", err)
	}
	x.doubt = doubt
	if err == nil {
		x.answer = answerOf(0, out)
	}
	return err
}

func (x *External) enter(state State) {
	next := *x.status.Load()
	if next.State == state && !next.Since.IsZero() {
		return
	}
	next.State, next.Since, next.Restarts = state, time.Now(), x.starts
	if state == Running {
		next.LastError = ""
	}
	x.status.Store(&next)
	select {
	case x.changed <- struct{}{}:
	default:
	}
}
