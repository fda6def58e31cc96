package openloop

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Summary is a result in figures. Times are in milliseconds; latencies are those
// of the answers that were right, from their scheduled times on.
type Summary struct {
	Requests int `json:"requests"`
	Rate     int `json:"rate"` // a second
	OK       int `json:"ok"`
	Refused  int `json:"refused"`
	Reset    int `json:"reset"`
	Timeout  int `json:"timeout"`
	Wrong    int `json:"wrong"`
	Other    int `json:"other"`

	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`

	Gap  float64 `json:"gap_ms"`  // the longest time without a right answer
	Late float64 `json:"late_ms"` // how late the generator was at most

	FirstError string `json:"first_error,omitempty"`
}

// Failed is how many requests had no right answer.
func (s Summary) Failed() int { return s.Requests - s.OK }

// String is the summary in two lines.
func (s Summary) String() string {
	text := fmt.Sprintf("%d requests, %d a second: %d ok, %d refused, %d reset, %d timed out, %d wrong, %d other\n"+
		"latency p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, max %.1f ms; longest time without an answer %.1f ms; generator late by at most %.1f ms",
		s.Requests, s.Rate, s.OK, s.Refused, s.Reset, s.Timeout, s.Wrong, s.Other, s.P50, s.P90, s.P99, s.Max, s.Gap, s.Late)
	if s.FirstError != "" {
		text += "\nthe first that failed: " + s.FirstError
	}
	return text
}

// Summary is the whole result in figures.
func (r *Result) Summary() Summary { return r.summary(r.Samples) }

// Total is several results in figures, as if they were one; the longest time without an
// answer is the longest of any.
func Total(results ...*Result) Summary {
	all := &Result{}
	longest := 0.0
	for _, r := range results {
		all.Rate = r.Rate
		all.Samples = append(all.Samples, r.Samples...)
		longest = max(longest, r.Summary().Gap)
	}
	sum := all.Summary()
	sum.Gap = longest
	return sum
}

// Between is the part of the result whose scheduled times lie from one time to
// another, in figures.
func (r *Result) Between(from, to time.Time) Summary {
	first, _ := slices.BinarySearchFunc(r.Samples, from.Sub(r.Began), compareDue)
	last, _ := slices.BinarySearchFunc(r.Samples, to.Sub(r.Began), compareDue)
	return r.summary(r.Samples[first:max(first, last)])
}

func compareDue(s Sample, t time.Duration) int { return int(s.Due - t) }

func (r *Result) summary(samples []Sample) Summary {
	sum := Summary{Requests: len(samples), Rate: r.Rate}
	if len(samples) == 0 {
		return sum
	}
	var took, ends []time.Duration
	var late time.Duration
	for _, s := range samples {
		late = max(late, s.Late)
		switch s.Outcome {
		case OK:
			took, ends = append(took, s.Took), append(ends, s.Due+s.Took)
			sum.OK++
		case Refused:
			sum.Refused++
		case Reset:
			sum.Reset++
		case Timeout:
			sum.Timeout++
		case Wrong:
			sum.Wrong++
		default:
			sum.Other++
		}
		if s.Err != nil && sum.FirstError == "" {
			sum.FirstError = strings.TrimSpace(s.Err.Error())
		}
	}
	slices.Sort(took)
	sum.P50, sum.P90, sum.P99, sum.Max = at(took, 50), at(took, 90), at(took, 99), at(took, 100)
	sum.Gap, sum.Late = ms(gap(ends, samples[0].Due, samples[len(samples)-1].Due)), ms(late)
	return sum
}

// gap is the longest time from one end to the next; the times at which the first and
// the last request were due count as ends.
func gap(ends []time.Duration, first, last time.Duration) time.Duration {
	ends = append(ends, first, last)
	slices.Sort(ends)
	longest := time.Duration(0)
	for i := range len(ends) - 1 {
		longest = max(longest, ends[i+1]-ends[i])
	}
	return longest
}

// at is the latency that so many percent do not exceed (nearest rank).
func at(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return ms(sorted[(len(sorted)*percent+99)/100-1])
}

func ms(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
