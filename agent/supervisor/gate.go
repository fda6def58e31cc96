package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Gate is where the process, or whoever speaks for it, is asked whether it may be
// patched now: a command, or a page by GET. The zero value is no gate.
type Gate struct {
	Exec []string
	HTTP string // http://host/path, or unix:/socket:/path

	// Timeout is how long one answer may take; 0: GateTime.
	Timeout time.Duration
}

// GateTime is how long the gate may take for an answer. It is asked again anyway, so
// what cannot say more than "not now" has to say that soon.
const GateTime = 10 * time.Second

// Set says whether there is one.
func (g Gate) Set() bool { return g.HTTP != "" || len(g.Exec) > 0 }

// A Verdict is what the gate says to a patch. The zero value is Wait.
type Verdict int

// The verdicts.
const (
	Wait Verdict = iota
	GoAhead
	NotAllowed
)

func (v Verdict) String() string {
	switch v {
	case GoAhead:
		return "GO AHEAD"
	case NotAllowed:
		return "NOT ALLOWED"
	default:
		return "WAIT"
	}
}

// An Answer is what the gate says, with what the process reports of itself, if it
// does.
type Answer struct {
	Verdict    Verdict
	RetryAfter time.Duration // when to ask again; 0: it does not say
	Build      *int64        // that the process is; nil: it does not say
	Region     string        // that the process is in; "": it does not say
	Message    string        // for the operator: one plain line of at most maxMessage bytes
}

// Exit statuses of a gate command. 21 and 75 mean WAIT as well: 75 is EX_TEMPFAIL of
// sysexits.h.
const (
	exitGoAhead    = 0
	exitNotAllowed = 1
	exitWait       = 2
	exitWaitToo    = 21
	exitTempFail   = 75
)

// Ask asks once. An error means that there is no answer that counts; it is to be
// taken as WAIT, and to be told. A command has the surroundings of the process that
// opts run, and env; it and all of its group are killed when ctx ends or when it takes too
// long.
func (g Gate) Ask(ctx context.Context, opts Options, env []string) (Answer, error) {
	timeout := g.Timeout
	if timeout == 0 {
		timeout = GateTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	var a Answer
	var err error
	name := g.HTTP
	if name != "" {
		a, err = g.page(ctx)
	} else {
		name = g.Exec[0]
		a, err = g.command(ctx, opts, env)
	}
	switch {
	case ctx.Err() != nil:
		return Answer{}, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case err != nil:
		return Answer{}, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

func (g Gate) command(ctx context.Context, opts Options, env []string) (Answer, error) {
	out := head{room: maxReport + 1}
	c := opts.command(g.Exec, env, 0)
	c.Stdout = &out
	printed, err := RunCommand(ctx, c)
	status := 0
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		status = exit.ExitCode() // -1 by a signal
	} else if err != nil {
		return Answer{}, errors.Unwrap(err) // without the name before it
	}
	var a Answer
	switch status {
	case exitGoAhead:
		a.Verdict = GoAhead
	case exitNotAllowed:
		a.Verdict = NotAllowed
	case exitWait, exitWaitToo, exitTempFail:
	default:
		text := plainMessage(string(printed))
		if text != "" {
			text = "; it printed: " + text
		}
		return a, fmt.Errorf("%w is none of 0 (go ahead), 1 (not allowed) and 2, 21 or 75 (wait)%s", errors.Unwrap(err), text)
	}
	err = a.report(out.data)
	return a, err
}

// page asks on a connection of its own. Redirects are not followed: they are no answer.
func (g Gate) page(ctx context.Context) (Answer, error) {
	var a Answer
	resp, done, err := send(ctx, http.MethodGet, g.HTTP)
	if err != nil {
		return a, stable(err)
	}
	defer done()
	switch status := resp.StatusCode; {
	case status/100 == 2:
		a.Verdict = GoAhead
	case status == http.StatusForbidden || status == http.StatusLocked:
		a.Verdict = NotAllowed
	case status == http.StatusTooEarly || status == http.StatusServiceUnavailable:
		a.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	default:
		return a, fmt.Errorf("it answers %s; the statuses of a gate are 2xx, 403, 423, 425 and 503", plainLine(resp.Status))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport+1))
	if err != nil {
		return a, fmt.Errorf("its answer is cut short: %w", stable(err))
	}
	err = a.report(body)
	return a, err
}

// stable is a network error without the addresses in it, of which one is another each
// time: what is said again must look so.
func stable(err error) error {
	if op, is := errors.AsType[*net.OpError](err); is {
		return fmt.Errorf("cannot %s: %w", op.Op, op.Err)
	}
	return err
}

// The bounds of what a Retry-After may ask for. The gate is not asked without a
// pause, whatever it says; and whoever asks has an end of patience that comes long before the
// later one.
const (
	leastRetry = 100 * time.Millisecond
	mostRetry  = 24 * time.Hour
)

// retryAfter reads the header's value: seconds, or a date (RFC 9110, 10.2.3). It
// returns 0 for what is neither.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	after := mostRetry
	if strings.Trim(value, "0123456789") == "" {
		if seconds, err := strconv.ParseInt(value, 10, 64); err == nil && seconds < int64(mostRetry/time.Second) {
			after = time.Duration(seconds) * time.Second
		}
	} else if date, err := http.ParseTime(value); err == nil {
		after = date.Sub(now)
	} else {
		return 0
	}
	return min(max(after, leastRetry), mostRetry)
}

// maxReport bounds what is read of a report, which has a number, a word and a
// sentence; maxMessage, in bytes, is that sentence, which goes into a line of the log.
const (
	maxReport  = 64 << 10
	maxMessage = 1 << 10
)

// report takes over what the gate has printed, if it is a JSON object.
func (a *Answer) report(text []byte) error {
	whole := len(text) <= maxReport
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff")))
	if !bytes.HasPrefix(text, []byte("{")) {
		return nil
	}
	if !whole {
		return fmt.Errorf("its report is longer than %d bytes", maxReport)
	}
	var said map[string]json.RawMessage
	if json.Unmarshal(text, &said) != nil {
		return nil // other text than an object
	}
	var err error
	if v, ok := said["build"]; ok && !isNull(v) {
		var build int64
		if build, err = wholeNumber(v); err != nil {
			return fmt.Errorf(`"build" of its report %w`, err)
		}
		a.Build = &build
	}
	if a.Region, err = reported(said, "region"); err != nil {
		return err
	}
	a.Message, err = reported(said, "message")
	a.Message = plainMessage(a.Message)
	return err
}

func isNull(v json.RawMessage) bool { return string(v) == "null" }

// wholeNumber takes digits, also in a string, as in a manifest.
func wholeNumber(v json.RawMessage) (int64, error) {
	digits := string(v)
	if strings.HasPrefix(digits, `"`) && json.Unmarshal(v, &digits) != nil || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, fmt.Errorf("is %s; it must be a whole number", plainLine(string(v)))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, errors.New("is too large")
	}
	return n, nil
}

func reported(said map[string]json.RawMessage, key string) (text string, err error) {
	v, ok := said[key]
	if !ok || isNull(v) {
		return "", nil
	}
	if json.Unmarshal(v, &text) != nil {
		return "", fmt.Errorf("%q of its report is %s; it must be a string", key, plainLine(string(v)))
	}
	return text, nil
}

// plainMessage is one line of the message, without what a terminal might obey.
func plainMessage(message string) string {
	const more = "…"
	message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, message)
	message = strings.Join(strings.Fields(message), " ")
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage - len(more)
	for !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + more
}

// head keeps the beginning of what is written to it.
type head struct {
	data []byte
	room int
}

func (h *head) Write(p []byte) (int, error) {
	fits := min(len(p), h.room-len(h.data))
	h.data = append(h.data, p[:fits]...)
	return len(p), nil
}
