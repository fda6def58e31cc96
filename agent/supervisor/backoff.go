package supervisor

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is how restarts are spaced. The zero value is the default.
type Backoff struct {
	First  time.Duration // before the first restart; doubles each time
	Max    time.Duration // the longest delay
	Limit  int           // restarts within Window, then the process stays down; less than 0: no limit
	Window time.Duration
	Quiet  time.Duration // a run that long begins the count anew
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

// again plans the next attempt, or gives up.
func (s *Supervisor) again() {
	b := s.opts.Backoff.withDefaults()
	if b.Limit >= 0 && s.restarts >= b.Limit {
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
