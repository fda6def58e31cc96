// Downtime measures what clients see of a cold patch. It runs the agent with nginx and
// with the Go server of these examples, each with a socket that the agent holds and
// without, asks all the time at a fixed rate with a new connection each, and applies
// cold patches one by one; before the last but one of them the agent is killed, and the
// next one has taken the process over, and in the middle of the last one it is, too. It prints what became of the connections, and for
// each patch the downtime_ms of its receipt beside what the load has seen.
//
//	go run ./examples/downtime [-patches 5] [-rate 500] [-only nginx|goserver] [-check]
//
// With -check the exit status is 1 if a connection to a held socket was lost, or if
// the receipts say another downtime than the load, see check.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"patchagent/examples/load/openloop"
)

// Bounds of the flags: so many patches take some minutes, and so many connections at
// once are still far from the limits of ports and descriptors.
const (
	maxPatches = 100
	maxRate    = 2000
)

func main() {
	patches := flag.Int("patches", 5, "cold patches of each target, and two more in which the agent is killed")
	rate := flag.Int("rate", 500, "connections a second")
	only := flag.String("only", "", "only this `target`: nginx or goserver")
	check := flag.Bool("check", false, "fail if a held socket lost a connection")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, *patches, *rate, *only, *check)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "downtime:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, patches, rate int, only string, judged bool) (ok bool, err error) {
	if patches < 1 || patches > maxPatches || rate < 1 || rate > maxRate {
		return false, fmt.Errorf("-patches may be from 1 to %d, -rate from 1 to %d", maxPatches, maxRate)
	}
	chosen, err := choose(only)
	if err != nil {
		return false, err
	}
	var series []measured
	left := spareAll
	for _, t := range chosen {
		for _, held := range []bool{true, false} {
			m, err := measure(ctx, t, held, patches, rate, &left)
			if err != nil {
				return false, fmt.Errorf("%s, %s: %w", t.name, sockets(held), err)
			}
			series = append(series, m)
		}
	}
	if err := errors.Join(printTotals(series), printPatches(series)); err != nil {
		return false, err
	}
	if !judged {
		return true, nil
	}
	ok = true
	for _, m := range series {
		verdict, good := check(m)
		fmt.Printf("%s, %s: %s\n", m.target, sockets(m.held), verdict)
		ok = ok && good
	}
	return ok, nil
}

// choose leaves out a target that cannot be run here, if it was not asked for.
func choose(only string) ([]target, error) {
	var chosen []target
	for _, t := range targets() {
		if only != "" && only != t.name {
			continue
		}
		if _, err := exec.LookPath(t.needs); t.needs != "" && err != nil {
			if only == t.name {
				return nil, err
			}
			fmt.Printf("%s is not measured: %s is not installed\n\n", t.name, t.needs)
			continue
		}
		chosen = append(chosen, t)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-only is %q; it must be nginx or goserver", only)
	}
	return chosen, nil
}

func sockets(held bool) string {
	if held {
		return "held socket"
	}
	return "its own socket"
}

// table begins a table whose text is one in Markdown, too.
func table(header ...any) *tabwriter.Writer {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	row(out, header...)
	rule := make([]any, len(header))
	for i := range rule {
		rule[i] = "---"
	}
	row(out, rule...)
	return out
}

func row(out *tabwriter.Writer, cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(out, "| %v\t", c)
	}
	fmt.Fprintln(out, "|")
}

func printTotals(series []measured) error {
	out := table("target", "socket", "patches", "connections", "refused", "reset", "timed out", "p50", "p99", "max")
	for _, m := range series {
		var results []*openloop.Result
		for _, p := range m.patches {
			results = append(results, p.load)
		}
		sum := openloop.Total(results...)
		row(out, m.target, sockets(m.held), len(m.patches), sum.Requests, sum.Refused, sum.Reset, sum.Timeout, msText(sum.P50), msText(sum.P99), msText(sum.Max))
	}
	fmt.Fprintln(out)
	return out.Flush()
}

func printPatches(series []measured) error {
	out := table("target", "socket", "patch", "downtime_ms", "longest time without an answer", "difference", "generator late")
	for _, m := range series {
		for _, p := range m.patches {
			sum := p.during()
			note := ""
			switch {
			case p.agent == before:
				note = ", adopted"
			case p.agent == midway:
				note = ", interrupted"
			case p.again:
				note = ", again"
			}
			differs := msText(p.difference())
			if p.standing() == unknown {
				differs = "not compared"
			}
			row(out, m.target, sockets(m.held), fmt.Sprint(p.build, note), p.downtime.Milliseconds(), msText(sum.Gap), differs, msText(sum.Late))
		}
	}
	fmt.Fprintln(out)
	return out.Flush()
}

func msText(ms float64) string { return fmt.Sprintf("%.1f ms", ms) }
