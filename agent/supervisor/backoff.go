package supervisor

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// Backoff is how restarts are spaced. The zero value is the default.
type Backoff struct {
	First  time.Duration // before the first restart; doubles each time
	Max    time.Duration // the longest delay
	Limit  int           // restarts within Window, then the process stays down; less than 0: no limit
	Window time.Duration
	Quiet  time.Duration // after a run that long delay and limit begin anew
}

func (b Backoff) withDefaults() Backoff {
	if b.First == 0 {
		b.First = 200 * time.Millisecond
	}
	if b.Max == 0 {
		b.Max = 30 * time.Second
	}
	if b.Limit == 0 {
		b.Limit = 50 // with the longest delay about 20 minutes
	}
	if b.Window == 0 {
		b.Window = time.Hour // more than so many take, even where each waits half a minute to be ready
	}
	if b.Quiet == 0 {
		b.Quiet = time.Minute
	}
	return b
}

// jitter is the part of a delay that is added to it at most, by chance, so that many
// machines do not do it all at once.
const jitter = 5 // a fifth

// attempts are the restarts so far. A start that somebody asks for begins with none.
type attempts struct {
	row    int         // since the process was last up for Quiet
	recent []time.Time // the newest, at most Limit
}

// next says after which delay the next one may be, and counts it; false at the limit.
func (a *attempts) next(b Backoff, now time.Time) (time.Duration, bool) {
	b = b.withDefaults()
	if b.Limit >= 0 {
		begin := now.Add(-b.Window)
		a.recent = slices.DeleteFunc(a.recent, func(at time.Time) bool { return at.Before(begin) })
		if len(a.recent) >= b.Limit {
			return 0, false
		}
		a.recent = append(a.recent, now)
	}
	delay := b.First
	for range a.row {
		if delay >= b.Max/2 {
			delay = b.Max
			break
		}
		delay *= 2
	}
	a.row++
	delay = min(delay, b.Max)
	return delay + rand.N(delay/jitter+1), true
}

// lived takes down how long the process was up when it ended.
func (a *attempts) lived(b Backoff, up time.Duration) {
	if up >= b.withDefaults().Quiet {
		*a = attempts{}
	}
}

// again plans the next attempt, or gives up: then only a restart, a patch, a rollback or
// an agent that is started starts the process.
func (s *Supervisor) again() {
	delay, ok := s.restarts.next(s.opts.Backoff, time.Now())
	if !ok {
		b := s.opts.Backoff.withDefaults()
		s.log.Error("the process does not stay up; it is left down until a restart, a patch, a rollback, a change of how it is started or a new start of the agent", "attempts", b.Limit, "within", b.Window.String(), "hint", restartHint)
		s.enter(Failed)
		return
	}
	s.log.Info("starting the process again", "attempt", s.restarts.row, "delay", delay.Round(time.Millisecond).String())
	s.enter(Waiting)
	s.retry.Reset(delay)
	if s.sockets.any() {
		s.prepare()
	}
}

func (s *Supervisor) startAgain(ctx context.Context) {
	s.retry.Stop() // configure may have set it in between
	if s.child != nil {
		return
	}
	if err := s.start(ctx, nil); err != nil && ctx.Err() == nil {
		s.log.Error("cannot start the process", "error", err)
		if s.child == nil { // else it is there still, and cannot be stopped
			s.startFailed()
		}
	}
}

// startFailed says whether the process, which did not come up, is tried again.
func (s *Supervisor) startFailed() bool {
	if s.opts.Restart == Never {
		s.enter(Failed)
		return false
	}
	s.again()
	return s.Status().State == Waiting
}
