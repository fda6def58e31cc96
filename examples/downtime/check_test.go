package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"patchagent/examples/load/openloop"
)

const ms = time.Millisecond

// of is a patch whose receipt says downtime, and of whose requests, one each 10 ms for a
// second, those from 500 ms on waited until the outage was over. The generator was so
// late, once.
func of(downtime, outage, late time.Duration, last openloop.Outcome) patch {
	began := time.Now()
	r := &openloop.Result{Began: began, Rate: 100}
	for i := range 100 {
		s := openloop.Sample{Due: time.Duration(i) * 10 * ms}
		if over := 500*ms + outage; s.Due >= 500*ms && s.Due < over {
			s.Took = over - s.Due
		}
		r.Samples = append(r.Samples, s)
	}
	r.Samples[40].Late = late
	if r.Samples[99].Outcome = last; last != openloop.OK {
		r.Samples[99].Err = syscall.ECONNREFUSED
	}
	return patch{downtime: downtime, load: r, from: began.Add(300 * ms), to: began.Add(900 * ms)}
}

// What is judged, and how.
func TestCheck(t *testing.T) {
	good := of(200*ms, 200*ms, 0, openloop.OK)
	off := of(200*ms, 300*ms, 0, openloop.OK)
	busy := of(200*ms, 300*ms, 11*ms, openloop.OK)
	slow := of(200*ms, 300*ms, 0, openloop.OK)
	slow.load.Samples[97].Took = 11 * ms
	lost := of(200*ms, 200*ms, 0, openloop.Refused)
	own := of(200*ms, 200*ms, 0, openloop.Other)
	for name, c := range map[string]struct {
		held    bool
		patches []patch
		verdict string
		ok      bool
	}{
		"all agree":                {true, []patch{good, good}, "good: 2 receipts", true},
		"one was off":              {true, []patch{good, off, good}, "good: 2 receipts", true},
		"one agrees":               {true, []patch{off, off, off, good}, "good; the machine is too busy to compare more than 1 ", true},
		"too busy":                 {true, []patch{busy, busy, busy}, "good; the machine is too busy to compare more than 0 ", true},
		"too slow":                 {true, []patch{slow, slow, slow, slow, slow, slow}, "good; the machine is too busy to compare more than 0 ", true},
		"few":                      {true, []patch{off, busy, off, off, off}, "good; the machine is too busy to compare more than 0 ", true},
		"none agrees":              {true, []patch{off, busy, off, off, slow, off, off}, "FAILED: 5 receipts differ", false},
		"a lost one":               {true, []patch{good, good, lost}, "FAILED: 1 connections were lost, the first: connection refused", false},
		"a lost one of its own":    {false, []patch{good, good, lost}, "good: 3 receipts", true},
		"trouble of the generator": {true, []patch{good, own}, "good: 2 receipts", true},
	} {
		verdict, ok := check(measured{held: c.held, wanted: 2, patches: c.patches})
		if !strings.HasPrefix(verdict, c.verdict) || ok != c.ok {
			t.Errorf("%s: %t %q", name, ok, verdict)
		}
	}
}
