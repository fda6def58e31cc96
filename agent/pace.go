package main

import "time"

// pace keeps the scans from following each other without a pause when events come
// without a pause: somebody writes to a file, or thousands of drops wait. The first
// event after a quiet moment is never kept waiting.
type pace struct {
	rest   time.Duration // after the last scan
	ended  time.Time     // that scan
	streak int           // scans in a row that came as soon as they could, or nearly
}

const (
	shortScan  = time.Millisecond      // one that takes no longer is followed by no rest
	restFactor = 4                     // so a longer one, in a flood, takes a fifth of a core
	longRest   = 2 * time.Second       // more is not needed, unless the scan itself takes longer
	streakGap  = 4 * time.Millisecond  // a scan is of the streak if it comes no later after the rest
	streakRest = 10 * time.Millisecond // between scans of a folder that somebody writes in all the time
	longStreak = 8                     // a writer that makes, writes and renames a file has fewer events
)

// scanned is told of a scan. One that has found something new is followed by the next
// without a rest, since that may be about more of the same.
func (p *pace) scanned(began time.Time, took time.Duration, news bool) {
	if began.Sub(p.ended) < p.rest+streakGap && !news {
		p.streak++
	} else {
		p.streak = 0
	}
	p.rest, p.ended = 0, began.Add(took)
	if took > shortScan && !news {
		p.rest = min(restFactor*took, max(longRest, took))
	}
	if p.streak >= longStreak {
		p.rest = max(p.rest, streakRest)
	}
}
