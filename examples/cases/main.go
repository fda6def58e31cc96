// Cases shows the whole job on real processes: it builds the agent and two
// versions of the sample target, lays out a site in a scratch folder, runs the
// agent in it, and drops four packages:
//
//  1. warm: a resource changes, the process is told and stays
//  2. cold: the program itself is replaced, and comes back as v2.0
//  3. a package for another region is refused
//  4. a package with an older build is refused
//
// It prints a line a case and exits 1 if one of them did not go as expected.
// With -keep the site stays, and how to play on is printed. With -drill N it does
// something else: it kills the agent in the middle of N patches and looks at what
// the next agent makes of that.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"patchagent/examples/site"
)

func main() {
	keep := flag.Bool("keep", false, "keep the scratch folder, and say how to play on in it")
	rounds := flag.Int("drill", 0, "kill the agent in the middle of so many patches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	do := func() (bool, error) { return run(ctx, *keep) }
	if *rounds > 0 {
		do = func() (bool, error) { return drill(ctx, *rounds) }
	}
	ok, err := do()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cases:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// A scenario is one drop and what should come of it.
type scenario struct {
	name     string
	pkg      site.Package
	expected string
}

func scenarios(newTarget []byte) []scenario {
	return []scenario{
		{"warm", site.Package{Warm: true, Region: "us-east-1", Build: 201, Files: site.One("work/job.json", `{"job": "count sheep"}`+"\n")},
			`applied; "v1.0 count sheep", same pid, no failed request`},
		{"cold", site.Package{Region: "us-east-1", Build: 300, Files: site.One("bin/target", string(newTarget))},
			`applied; "v2.0 count sheep", new pid`},
		{"other region", site.Package{Region: "India", Build: 301, Files: site.One("bin/target", "nothing to run")},
			`rejected wrong-region; "v2.0 count sheep", same pid`},
		{"older build", site.Package{Warm: true, Region: "us-east-1", Build: 100, Files: site.One("work/job.json", `{"job": "an old job"}`)},
			`rejected older-build; "v2.0 count sheep", same pid`},
	}
}

func run(ctx context.Context, keep bool) (ok bool, err error) {
	s, newTarget, err := newCases(ctx)
	if s != nil && !keep {
		defer s.Remove()
	}
	if err != nil {
		return false, err
	}
	if err := s.start(ctx); err != nil {
		return false, err
	}
	defer func() {
		if stopErr := s.Stop(); err == nil {
			err = stopErr
		}
	}()
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "case\texpected\tseen\ttook\tdowntime")
	ok = true
	for i, c := range scenarios(newTarget) {
		seen, took, down, err := s.try(ctx, c.pkg)
		if err != nil {
			return false, fmt.Errorf("case %d (%s): %w; the agent said:\n%s", i+1, c.name, err, s.Log())
		}
		verdict := ""
		if seen != c.expected {
			ok, verdict = false, "  DIFFERS"
		}
		fmt.Fprintf(out, "%d %s\t%s\t%s\t%v\t%v%s\n", i+1, c.name, c.expected, seen, took.Round(100*time.Microsecond), down, verdict)
	}
	if err := out.Flush(); err != nil {
		return false, err
	}
	if keep {
		fmt.Printf("\nThe site is in %s. To play on:\n  cd %s\n  ./patchagent -c agent.toml &\n  curl %s/\n  # drop a zip into patch/, and read the outcome in the log\n", s.Dir, s.Dir, s.url)
	}
	return ok, nil
}
