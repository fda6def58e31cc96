// Load asks a server by HTTP at a fixed rate, each time on a new connection and at
// its own time whatever the others do, and says what became of that:
//
//	go run ./examples/load -rate 500 -for 10s http://127.0.0.1:8080/
//
// It ends when the time or the number is over, or on SIGTERM or SIGINT, and prints
// its figures in either case; with -json as one JSON object. The exit status is 0 if
// each request had a right answer, and 1 if not.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"patchagent/examples/load/openloop"
)

// Bounds: every request is kept in memory for its figures, and many at once are
// descriptors and ports.
const (
	maxRate  = 10_000
	maxCount = 1_000_000
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (ok bool, err error) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	var want []string
	rate := flags.Int("rate", 500, "requests a second")
	span := flags.Duration("for", 10*time.Second, "how long")
	count := flags.Int("count", 0, "end after so many requests; 0: by -for")
	timeout := flags.Duration("timeout", 10*time.Second, "of one request")
	asJSON := flags.Bool("json", false, "print one JSON object")
	flags.Func("want", "a right `body`; may be given several times (default: any)", func(s string) error { want = append(want, s); return nil })
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: load [flags] http://HOST:PORT/PATH")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		return false, err
	}
	if *count == 0 {
		*count = int(span.Seconds() * float64(*rate))
	}
	switch {
	case flags.NArg() != 1 || target.Scheme != "http" || target.Port() == "":
		return false, errors.New("name one address to ask, such as http://127.0.0.1:8080/")
	case *rate < 1 || *rate > maxRate:
		return false, fmt.Errorf("-rate is %d; it must be from 1 to %d", *rate, maxRate)
	case *count < 1 || *count > maxCount:
		return false, fmt.Errorf("these are %d requests; it must be from 1 to %d: change -for or -count", *count, maxCount)
	case *timeout <= 0:
		return false, errors.New("-timeout must be more than nothing")
	}
	ask := openloop.HTTP{Address: target.Host, Path: target.RequestURI(), Want: want}
	sum := openloop.Load{Rate: *rate, Count: *count, Timeout: *timeout, Ask: ask.Ask}.Run(ctx).Summary()
	if !*asJSON {
		fmt.Println(sum)
		return sum.Failed() == 0, nil
	}
	return sum.Failed() == 0, json.NewEncoder(os.Stdout).Encode(sum)
}
