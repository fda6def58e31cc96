package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of how a process is treated, each with its reason.
const (
	minWatchdog  = Duration(100 * time.Millisecond) // a busy machine keeps a process from its turn for so long
	minRestart   = Duration(10 * time.Millisecond)  // faster than that is a busy loop
	mostRestarts = 10_000                           // the time of each within the window is remembered
	leastNice    = -20                              // setpriority(2)
	mostNice     = 19
	permissions  = 0o777 // of a file; all that can be asked for
	ownerBits    = 0o700 // of them those without which the process could not use what it makes
)

// Octal are the bits of a file's mode, written "0640"; the zero value is none.
type Octal struct {
	Set  bool
	Bits int
}

func (o Octal) String() string {
	if !o.Set {
		return ""
	}
	return fmt.Sprintf("%04o", o.Bits)
}

// UnmarshalText reads octal digits; "" is none.
func (o *Octal) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*o = Octal{}
		return nil
	}
	n, err := strconv.ParseUint(string(text), 8, 16)
	if err != nil || n > permissions {
		return fmt.Errorf(`%q is not octal digits up to "0777"`, text)
	}
	*o = Octal{Set: true, Bits: int(n)}
	return nil
}

func (o *Octal) assign(key string, value any) error {
	like := `"0660"`
	if key == umaskKey {
		like = `"0027"`
	}
	s, ok := value.(string)
	if !ok {
		return mismatch(value, "octal digits in quotes: write "+like)
	}
	if err := o.UnmarshalText([]byte(s)); err != nil {
		return fmt.Errorf("%w; write them like %s", err, like)
	}
	return nil
}

const umaskKey = "target.umask"

// Unlimited is no limit, as setrlimit(2) has it on Linux.
const Unlimited = math.MaxUint64

// An Rlimit is one of setrlimit(2).
type Rlimit struct{ Soft, Hard uint64 }

func (l Rlimit) String() string {
	if l.Soft == l.Hard {
		return limitText(l.Soft)
	}
	return limitText(l.Soft) + ":" + limitText(l.Hard)
}

func limitText(n uint64) string {
	if n == Unlimited {
		return unlimited
	}
	return strconv.FormatUint(n, 10)
}

const unlimited = "unlimited"

// Rlimits are by name, as in setrlimit(2), in lower case without RLIMIT_.
type Rlimits map[string]Rlimit

// resources are all that Linux has.
var resources = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (l *Rlimits) assign(value any) error {
	table, ok := value.(map[string]any)
	if !ok {
		return mismatch(value, `a table of limits, such as { nofile = 65536, core = "0:unlimited" }`)
	}
	taken := Rlimits{}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(resources, name) {
			return fmt.Errorf("has %s, which is no limit; did you mean %s?", name, nearest(strings.TrimPrefix(strings.ToLower(name), "rlimit_"), resources, nil, nil))
		}
		limit, err := parseRlimit(table[name])
		if err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		taken[name] = limit
	}
	*l = taken
	return nil
}

var errNotRlimit = errors.New(`must be a whole number, "unlimited", or both limits like "1024:65536"`)

func parseRlimit(value any) (limit Rlimit, err error) {
	switch v := value.(type) {
	case int64:
		if v < 0 {
			return limit, fmt.Errorf("is %d; write %q for no limit", v, unlimited)
		}
		return Rlimit{uint64(v), uint64(v)}, nil
	case string:
		if v == unlimited {
			return Rlimit{Unlimited, Unlimited}, nil
		}
		soft, hard, both := strings.Cut(v, ":")
		if !both {
			return limit, fmt.Errorf("is %q; it %w", v, errNotRlimit)
		}
		var errSoft, errHard error
		limit.Soft, errSoft = parseLimit(soft)
		limit.Hard, errHard = parseLimit(hard)
		if errSoft != nil || errHard != nil {
			return limit, fmt.Errorf("is %q; it %w", v, errNotRlimit)
		}
		if limit.Soft > limit.Hard {
			return limit, fmt.Errorf("is %q; the first, which holds, cannot be more than the second, up to which it can be raised", v)
		}
		return limit, nil
	default:
		return limit, fmt.Errorf("is %s; it %w", kind(value), errNotRlimit)
	}
}

func parseLimit(text string) (uint64, error) {
	if text == unlimited {
		return Unlimited, nil
	}
	return strconv.ParseUint(text, 10, 63) // as far as a number of the file goes
}

// service refuses what is neither a process of the agent's own nor wholly another
// manager's.
func (r *reader) service() {
	t := &r.cfg.Target
	for key := range r.set {
		t.External.Set = t.External.Set || strings.HasPrefix(key, externalKey)
	}
	switch {
	case r.bad["target"] || r.bad["target.command"] || r.bad[externalKey]:
	case t.External.Set && len(t.Command) > 0:
		r.problem("target.command", "cannot be set together with [%s]: it is the other manager that runs the service", externalKey)
	case t.External.Set:
		// It needs none.
	case len(t.Command) == 0:
		r.problem("target.command", `must be set: the program and its arguments, such as ["bin/app", "-v"]; or [%s], for a service that another manager runs`, externalKey)
	case slices.Contains(t.Command, ""):
		r.problem("target.command", "has an empty string in it; all of it must be the program and its arguments")
	}
	if t.External.Set {
		r.external()
	}
}

const externalKey = "target.external"

// external refuses what only a process of the agent's own can have, if the file asks
// for it, and takes back what it has by default.
func (r *reader) external() {
	t := &r.cfg.Target
	for _, needed := range []struct {
		name, verb string
		argv       []string
	}{{"start", "start", t.External.Start}, {"stop", "stop", t.External.Stop}, {"status", "is-active", t.External.Status}} {
		key := externalKey + "." + needed.name
		if len(needed.argv) > 0 || r.bad[key] || r.full() {
			continue
		}
		line := r.lines(strings.Split(key, "."))
		if line == 0 {
			line = r.lines(strings.Split(externalKey, "."))
		}
		r.add(Problem{line, key, fmt.Sprintf(`must be set: the command that does it, such as ["systemctl", %q, "app"]`, needed.verb)})
	}
	const (
		starter = "it is for the manager that starts the service to set"
		none    = "the agent has no process of its own to do that with"
		restart = "whether it is started again is for the manager that runs it to say"
		notify  = "a service says that to the manager that starts it"
	)
	reasons := map[string]string{
		"target.output": "the output belongs to the manager that starts the service", "target.umask": starter, "target.nice": starter, "target.rlimits": starter,
		"target.watchdog": notify, "target.ready.notify": notify,
		"target.stop_signal": none, "target.stop_timeout": none, "target.reload.signal": none,
		"target.restart": restart, "target.restart_delay": restart, "target.restart_max_delay": restart, "target.restart_limit": restart, "target.restart_window": restart,
	}
	for _, f := range r.cfg.fields() {
		if why := reasons[f.key]; why != "" && r.set[f.key] && !r.bad[f.key] && !zero(f.value) {
			r.ownOnly(f.key, why)
		}
	}
	if t.Reload.Confirm == ConfirmNotify {
		r.ownOnly("target.reload.confirm", notify)
	}
	if r.set[socketKey] {
		r.ownOnly(socketKey, "it is the manager that starts the service that could hand a socket over")
	}
	t.Reload.Signal = Signal{}
}

func (r *reader) ownOnly(key, why string) {
	r.problem(key, "cannot be set together with [%s]: %s", externalKey, why)
}

// restarts are bounds of how often and how soon.
func (r *reader) restarts() {
	t := r.cfg.Target
	if t.RestartDelay < minRestart {
		r.problem("target.restart_delay", "is %s; it must be at least %s", t.RestartDelay, minRestart)
	}
	if t.RestartMaxDelay < t.RestartDelay {
		key := "target.restart_max_delay"
		if !r.set[key] {
			key = "target.restart_delay"
		}
		r.problem(key, "target.restart_max_delay is %s, shorter than target.restart_delay, which is %s", t.RestartMaxDelay, t.RestartDelay)
	}
	if n := t.RestartLimit; n < 0 || n > mostRestarts {
		r.problem("target.restart_limit", "is %d; it must be from 1 to %d, or 0 for no limit", n, mostRestarts)
	}
}

// treatment are bounds of what is set for the process when it starts.
func (r *reader) treatment() {
	t := r.cfg.Target
	if t.Watchdog > 0 && t.Watchdog < minWatchdog {
		r.problem("target.watchdog", `is %s; it must be at least %s, or "0s" for none`, t.Watchdog, minWatchdog)
	}
	if u := t.Umask; u.Set && u.Bits&ownerBits != 0 {
		r.problem(umaskKey, `is %q, which takes the right to read, write or search what it makes from the process itself; write one like "0027", which takes it from others`, u)
	}
	if n := t.Nice; n != nil && (*n < leastNice || *n > mostNice) {
		r.problem("target.nice", "is %d; it must be from %d, the most urgent, to %d", *n, leastNice, mostNice)
	}
}
