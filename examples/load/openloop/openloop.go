// Package openloop asks a server at a fixed rate, whatever becomes of the answers.
//
// A generator that waits for an answer before it asks again is kept waiting by an
// outage, asks less while it lasts, and so hardly sees it. This one starts every
// request at its own time, which is settled before the first is made, and counts
// what it took from that time on. What the generator itself was late is measured
// too: figures are only honest for as long as it was on time.
//
// Everything is bounded: the number of requests by Load.Count, how many are under
// way by Load.Rate and Load.Timeout.
package openloop

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// An Outcome is what became of one request.
type Outcome int

// The outcomes.
const (
	OK      Outcome = iota
	Refused         // nobody listened
	Reset           // the connection was closed before the answer was whole
	Timeout         // no whole answer in time
	Wrong           // another answer than was wanted
	Other           // trouble of the generator's own, such as no free descriptor or port
)

// ErrWrong is wrapped by what Load.Ask returns for an answer that was not wanted.
var ErrWrong = errors.New("a wrong answer")

// A Load is how often what is asked.
type Load struct {
	Rate    int           // requests a second
	Count   int           // requests in all
	Timeout time.Duration // of one request, from its scheduled time on
	Ask     func(context.Context) error
}

// A Sample is one request.
type Sample struct {
	Due     time.Duration // its scheduled time, from Result.Began on
	Late    time.Duration // how long after it the request was made
	Took    time.Duration // from its scheduled time until its end
	Outcome Outcome
	Err     error // of Outcome, other than OK
}

// A Result is what a load has seen.
type Result struct {
	Began   time.Time
	Rate    int
	Samples []Sample // in the order of their scheduled times
}

// Run makes the requests, and returns when the last of them has ended. When ctx ends,
// no more are begun; those under way come to their end.
func (l Load) Run(ctx context.Context) *Result {
	r := &Result{Began: time.Now(), Rate: l.Rate, Samples: make([]Sample, l.Count)}
	interval := time.Second / time.Duration(l.Rate)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for i := range r.Samples {
		s := &r.Samples[i]
		s.Due = time.Duration(i) * interval
		timer.Reset(time.Until(r.Began.Add(s.Due)))
		select {
		case <-ctx.Done():
			r.Samples = r.Samples[:i]
			return r
		case <-timer.C:
		}
		asking.Go(func() { l.one(context.WithoutCancel(ctx), r.Began, s) })
	}
	return r
}

func (l Load) one(ctx context.Context, began time.Time, s *Sample) {
	due := began.Add(s.Due)
	s.Late = time.Since(due)
	ctx, cancel := context.WithDeadline(ctx, due.Add(l.Timeout))
	defer cancel()
	s.Err = l.Ask(ctx)
	s.Took = time.Since(due)
	s.Outcome = outcomeOf(s.Err)
}

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, ErrWrong):
		return Wrong
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reset
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), timedOut(err):
		return Timeout
	default:
		return Other
	}
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
