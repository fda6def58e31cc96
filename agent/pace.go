package main

import (
	"math"
	"time"
)

// pace keeps the scans from following each other without a pause when events come
// without a pause: somebody writes to a file, or thousands of drops wait. The first
// event after a quiet moment is never kept waiting.
type pace struct {
	rest   time.Duration // after the last scan
	streak int           // scans in a row for which an event had come during the rest before
}

const (
	restFactor = 4                     // so a scan in a flood takes a fifth of a core
	longRest   = 2 * time.Second       // more is not needed, unless the scan itself takes longer
	streakRest = 16 * time.Millisecond // between scans of a folder that somebody writes in all the time
	longStreak = 8                     // a writer that makes, writes and renames a file has fewer events
)

// scanned is told how long a scan took. One that has found something new is followed
// by the next without a rest, since that may be about more of the same.
func (p *pace) scanned(took time.Duration, news bool) {
	p.rest = 0
	if news {
		return
	}
	p.rest = min(restFactor*took, max(longRest, took))
	if p.streak >= longStreak {
		p.rest = max(p.rest, streakRest)
	}
}

// rested is told at the end of a rest whether an event has come meanwhile.
func (p *pace) rested(event bool) {
	if !event {
		p.streak = 0
	} else if p.streak < math.MaxInt {
		p.streak++
	}
}
