// Ask asks a name server for the text of a name (TXT) over UDP, and prints it:
//
//	ask 127.0.0.1:5353 build.example
//
// With -want another text is a failure. With -rate it asks all the time at that rate,
// each time from a new socket and without asking twice, until -for is over or it gets
// SIGTERM, and prints one JSON object with the figures. The exit status is 0 if every
// answer was right.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"patchagent/examples/load/openloop"
)

// Bounds of a load, see the program load.
const (
	maxRate  = 10_000
	maxCount = 1_000_000
)

func main() {
	want := flag.String("want", "", "the right `text`; empty: any")
	rate := flag.Int("rate", 0, "queries a second; 0: ask once")
	span := flag.Duration("for", 10*time.Second, "how long to ask at that rate")
	timeout := flag.Duration("timeout", 2*time.Second, "of one query")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *want, *rate, *span, *timeout, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ask:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, want string, rate int, span, timeout time.Duration, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: ask [flags] HOST:PORT NAME")
	}
	server, name := args[0], args[1]
	if rate == 0 {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		text, err := ask(ctx, server, name, want)
		if err == nil {
			fmt.Println(text)
		}
		return err
	}
	count := int(span.Seconds() * float64(rate))
	if rate < 1 || rate > maxRate || count < 1 || count > maxCount {
		return fmt.Errorf("-rate may be up to %d, and %d queries in all", maxRate, maxCount)
	}
	sum := openloop.Load{Rate: rate, Count: count, Timeout: timeout, Ask: func(ctx context.Context) error {
		_, err := ask(ctx, server, name, want)
		return err
	}}.Run(ctx).Summary()
	if err := json.NewEncoder(os.Stdout).Encode(sum); err != nil {
		return err
	}
	if sum.Failed() > 0 {
		return fmt.Errorf("%d of %d had no right answer: %s", sum.Failed(), sum.Requests, sum.FirstError)
	}
	return nil
}

// ask asks once. An answer without the text, or with another than is wanted, wraps
// openloop.ErrWrong.
func ask(ctx context.Context, server, name, want string) (string, error) {
	q, err := query(name)
	if err != nil {
		return "", err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return "", err
		}
	}
	if _, err := conn.Write(q); err != nil {
		return "", err
	}
	answer := make([]byte, maxMessage)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return "", err
		}
		text, mine, err := textOf(answer[:n], q)
		if !mine {
			continue // of somebody else, or of an earlier query
		}
		if err != nil {
			return "", fmt.Errorf("%w: %s: %w", openloop.ErrWrong, name, err)
		}
		if want != "" && text != want {
			return "", fmt.Errorf("%w: %s is %q, not %q", openloop.ErrWrong, name, text, want)
		}
		return text, nil
	}
}
