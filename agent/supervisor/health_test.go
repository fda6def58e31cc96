//go:build linux

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// checked sets a health command that writes a line to the file "asked" and then
// runs the script, which finds the number of the question in $n.
func (st *stage) checked(script string, h Health) *Supervisor {
	st.t.Helper()
	h.Exec = []string{"sh", "-c", "echo >>asked; n=$(wc -l <asked); " + script}
	if h.Interval == 0 {
		h.Interval = time.Millisecond
	}
	h.Timeout, h.Failures = 2*time.Minute, 3
	st.opts.Health = h
	return st.start()
}

func (st *stage) asked() int {
	data, _ := os.ReadFile(filepath.Join(st.dir, "asked"))
	return strings.Count(string(data), "\n")
}

func TestProbation(t *testing.T) {
	for _, c := range []struct {
		name   string
		script string
		window time.Duration
		sick   bool
		want   bool // it stands it
		asked  int  // 0: does not matter
	}{
		{"well", "true", 50 * time.Millisecond, false, true, 0},
		{"asked at the beginning and at the end", "true", time.Nanosecond, false, true, 1},
		{"never well", "false", time.Minute, false, false, 3},
		{"failures that are not in a row", "test $((n % 3)) = 0", 200 * time.Millisecond, false, true, 0},
		{"well, then three failures", "test $n -lt 5", time.Minute, false, false, 7},
		{"a failure at the end prolongs it", "test $n -ge 3", time.Nanosecond, false, true, 3},
		{"failures at the end, prolonged until it is clear", "false", time.Nanosecond, false, false, 3},
		{"sick before, and still", "false", 50 * time.Millisecond, true, true, 0},
		{"sick before, well, sick again", "test $n = 5", time.Minute, true, false, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, "plain")
			s := st.checked(c.script, Health{Window: c.window})
			err := s.Watch(t.Context(), nil, c.sick)
			if c.want != (err == nil) || err != nil && !errors.Is(err, ErrUnhealthy) {
				t.Errorf("%v", err)
			}
			if n := st.asked(); c.asked != 0 && n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
		})
	}
}

// A process that ends on probation ends it, and is not started again before somebody
// has decided.
func TestEndsOnProbation(t *testing.T) {
	st := newStage(t, "plain")
	s := st.checked("true", Health{Window: time.Minute, Interval: time.Minute})
	pid := s.Status().PID
	verdict := make(chan error, 1)
	go func() { verdict <- s.Watch(t.Context(), nil, false) }()
	eventually(t, "the first question", func() bool { return st.asked() > 0 })
	if err := signalTo(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-verdict; !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "it ended on probation (signal: killed)") {
		t.Errorf("%v", err)
	}
	eventually(t, "its end", func() bool { return s.Status().State == Stopped })
	s.Resume()
	eventually(t, "a new one", s.Up)
}

func TestSick(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		sick   bool
		asked  int
	}{
		"well": {"true", false, 1}, "well at the third time": {"test $n = 3", false, 3}, "sick": {"echo ouch; false", true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, "plain")
			s := st.checked(c.script, Health{})
			if err := s.Sick(t.Context()); c.sick != (err != nil) || st.asked() != c.asked {
				t.Errorf("%v, asked %d times", err, st.asked())
			}
		})
	}
	st := newStage(t, "plain")
	if err := st.run().Sick(t.Context()); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("one that is down: %v", err)
	}
}
