//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// When the watchdog bites, by what was said and when.
func TestAlarm(t *testing.T) {
	const every, stop = time.Hour, time.Minute
	soon := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for name, c := range map[string]struct {
		up    bool
		says  string
		after time.Duration // 0: never
		why   string
	}{
		"not up":          {false, "WATCHDOG=1", 0, ""},
		"up":              {true, "", every, "no sign of life"},
		"a sign":          {true, "WATCHDOG=1", every, "no sign of life"},
		"another time":    {true, "WATCHDOG_USEC=60000000", time.Minute, "for 1m0s"},
		"no watchdog":     {true, "WATCHDOG_USEC=0", 0, ""},
		"it calls":        {true, "WATCHDOG=trigger", time.Nanosecond, "WATCHDOG=trigger"},
		"stopping":        {true, "STOPPING=1|WATCHDOG=trigger", stop, "STOPPING=1"},
		"slowly stopping": {true, "STOPPING=1;EXTEND_TIMEOUT_USEC=600000000", 10 * time.Minute, "STOPPING=1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, says := heardOf(t, Options{Watchdog: every})
			before := soon(c.after)
			if c.up {
				s.heard.up()
			}
			if c.says != "" {
				says(c.says)
			}
			due, why := s.heard.alarm(stop)
			if c.after == 0 && !due.IsZero() || c.after != 0 && (due.Before(before) || due.After(soon(c.after))) || !strings.Contains(why, c.why) {
				t.Errorf("%s (in %s), %q", due, time.Until(due), why)
			}
		})
	}
	// A sign is worth something.
	s, says := heardOf(t, Options{Watchdog: every})
	s.heard.up()
	first, _ := s.heard.alarm(stop)
	says("WATCHDOG=1")
	if next, _ := s.heard.alarm(stop); !next.After(first) {
		t.Errorf("%s, then %s", first, next)
	}
	for _, p := range []phase{startPhase, tellPhase, stopPhase} {
		s.heard.enter(p)
		if due, _ := s.heard.alarm(stop); !due.IsZero() {
			t.Errorf("in the %s: %s", p, due)
		}
	}
}

func TestWatchdog(t *testing.T) {
	// A Go program ends with status 2 by SIGABRT.
	for name, c := range map[string]struct {
		say, exit, why string
		within         time.Duration // it is given to end
	}{
		"silent":   {"READY=1;WATCHDOG_USEC=20000", "exit status 2", "no sign of life (WATCHDOG=1) for 20ms", time.Minute},
		"it calls": {"READY=1|WATCHDOG=trigger", "exit status 2", "WATCHDOG=trigger", time.Minute},
		"stopping": {"READY=1|STOPPING=1", "signal: killed", "STOPPING=1", 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, c.say)
			st.opts.Watchdog = time.Hour
			st.opts.StopTimeout = c.within
			st.opts.Env["GOTRACEBACK"] = "none"
			s := st.run()
			s.Resume()
			// It is a failure each time.
			eventually(t, "its end", func() bool {
				last := s.Status().LastExit
				return strings.HasPrefix(last, c.exit) && strings.Contains(last, c.why)
			})
			eventually(t, "another, and its end", func() bool { return s.Status().Restarts > 1 })
		})
	}
}

// A process finds how often it has to give a sign of life; what it does without is
// unhealthy on probation.
func TestWatchdogOnProbation(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	st.opts.Watchdog = time.Hour
	st.opts.Health = Health{Interval: time.Hour, Timeout: time.Second, Failures: 1, Window: time.Hour}
	s := st.start()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Status().PID))
	if want := fmt.Sprintf("\x00WATCHDOG_PID=%d\x00", s.Status().PID); err != nil || !strings.Contains(string(data), want) || !strings.Contains(string(data), "\x00WATCHDOG_USEC=3600000000\x00") {
		t.Errorf("%v, %q", err, data)
	}
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(t.Context(), nil, false) }()
	eventually(t, "the probation", func() bool {
		held := false
		_ = s.ask(t.Context(), func() error { held = s.held; return nil })
		return held && strings.Contains(st.said(), "up\n")
	})
	pid := s.Status().PID
	if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte("WATCHDOG=trigger"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := signalTo(pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "WATCHDOG=trigger") {
		t.Errorf("%v", err)
	}
	eventually(t, "the end", func() bool { return s.Status().State == Stopped })
}
