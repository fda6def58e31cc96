package main

import (
	"fmt"
	"math"

	"patchagent/examples/load/openloop"
)

// What a receipt's downtime_ms may differ from what the load has seen, and how late the
// generator may be at most, and how slow an answer right after the patch, for the two
// to be compared; all in milliseconds.
const (
	tolerance = 20
	onTime    = 10
)

// enough receipts have to differ, and none agree, before it is they that are wrong and
// not a machine that others use, too.
const enough = 5

// A standing is how a patch's receipt and the load compare.
type standing int

const (
	unknown standing = iota // the machine was too busy to tell
	agrees
	differs
)

func (p patch) standing() standing {
	switch {
	case p.during().Late > onTime, p.after().Max > onTime:
		return unknown
	case math.Abs(p.difference()) <= tolerance:
		return agrees
	default:
		return differs
	}
}

func (m measured) count(s standing) int {
	n := 0
	for _, p := range m.patches {
		if p.standing() == s {
			n++
		}
	}
	return n
}

// check judges a series in one sentence. A held socket may not lose one connection.
// The downtimes of the receipts have to agree with the load; what does not, on a
// machine that others use too, has been measured again. Only where enough
// were measured on time, and none of them agrees, it is the receipts that are wrong.
func check(m measured) (verdict string, ok bool) {
	var results []*openloop.Result
	for _, p := range m.patches {
		results = append(results, p.load)
	}
	sum := openloop.Total(results...)
	if lost := sum.Failed() - sum.Other; m.held && lost > 0 {
		return fmt.Sprintf("FAILED: %d connections were lost, the first: %s", lost, sum.FirstError), false
	}
	agree, differ := m.count(agrees), m.count(differs)
	switch {
	case agree >= m.wanted:
		return fmt.Sprintf("good: %d receipts agree with the load within %d ms", agree, tolerance), true
	case agree == 0 && differ >= enough:
		return fmt.Sprintf("FAILED: %d receipts differ from the load by more than %d ms, and none agrees", differ, tolerance), false
	default:
		return fmt.Sprintf("good; the machine is too busy to compare more than %d receipts with the load", agree), true
	}
}
