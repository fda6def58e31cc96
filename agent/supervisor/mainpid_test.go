//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// count is how often there is the line.
func count(text, line string) int {
	n := 0
	for l := range strings.Lines(text) {
		if l == line+"\n" {
			n++
		}
	}
	return n
}

// A process that makes another the main one and ends at once, whenever it does.
func TestMainPID(t *testing.T) {
	for name, c := range map[string]struct {
		say, hangup string
		do          func(st *stage, s *Supervisor) error
	}{
		"in the start": {"pass READY=1", "", nil},
		"later": {"READY=1", "", func(st *stage, s *Supervisor) error {
			return errors.Join(os.WriteFile(filepath.Join(st.dir, "words"), []byte("pass STATUS=gone"), 0o600), signalTo(s.Status().PID, syscall.SIGUSR1))
		}},
		"in a reload": {"READY=1", "RELOADING=1|pass READY=1", func(_ *stage, s *Supervisor) error { return s.Reload(t.Context(), nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, c.say)
			st.opts.Env["HANGUP"] = c.hangup
			s := st.run()
			if err := s.Start(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			ups := 1
			if c.do != nil {
				eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
				first := s.Status().PID
				if err := c.do(st, s); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the other", func() bool { return s.Status().PID != first })
				ups = 2
			}
			eventually(t, "the other to be up", func() bool { return count(st.said(), "up") == ups })
			second := s.Status().PID
			if r := readState(t, st); s.Status().State != Running || !alive(second) || r.PID != second || s.Status().Restarts != 0 {
				t.Errorf("%+v, on record %+v", s.Status(), r)
			}
			st.tell("STATUS=here")
			if s.Status().Text != "here" || s.Status().PID != second {
				t.Errorf("%+v", s.Status())
			}
			if err := s.Reload(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if err := s.Stop(t.Context()); err != nil || alive(second) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is to be done to the process is done to the one that it has named before.
func TestMainPIDComesFirst(t *testing.T) {
	for name, do := range map[string]func(s *Supervisor) error{
		"terminated": func(s *Supervisor) error { return s.stop() },
		"hangup":     func(s *Supervisor) error { return s.reload(t.Context(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			st := newSpeaker(t, "READY=1")
			st.opts.Env["HANGUP"] = "RELOADING=1|READY=1"
			s := st.start()
			eventually(t, "the process", func() bool { return count(st.said(), "up") == 1 })
			if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte("pass STATUS=gone"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.ask(t.Context(), func() error { // Run is busy with it
				err := signalTo(s.child.pid, syscall.SIGUSR1)
				for late := time.Now().Add(2 * time.Minute); count(st.said(), "up") < 2 || s.heard.candidate(s.child) == nil; time.Sleep(2 * time.Millisecond) {
					if time.Now().After(late) {
						return errors.New("waited in vain for its word")
					}
				}
				return errors.Join(err, do(s))
			}); err != nil {
				t.Error(err)
			}
			eventually(t, name, func() bool { return count(st.said(), name) == 1 })
		})
	}
}

// Another may become the main process while something is asked or told that takes longer
// than anybody is spared for.
func TestMainPIDMeanwhile(t *testing.T) {
	const waits = "until test -e over; do sleep 0.01; done"
	over := func(st *stage) { _ = os.WriteFile(filepath.Join(st.dir, "over"), nil, 0o600) }
	passed := func(st *stage, first int) {
		eventually(st.t, "the other", func() bool { pid := st.s.Status().PID; return pid != 0 && pid != first })
	}
	t.Run("it starts", func(t *testing.T) {
		st := newSpeaker(t, "pass STATUS=gone")
		st.opts.Ready = Ready{Probe: Probe{Exec: []string{"sh", "-c", waits}}, Timeout: time.Minute}
		s := st.run()
		started := make(chan error, 1)
		go func() { started <- s.Start(t.Context(), nil) }()
		eventually(t, "the process", func() bool { return s.Status().PID != 0 })
		eventually(t, "its word", func() bool { return s.Status().Text == "gone" })
		eventually(t, "the other", func() bool { return count(st.said(), "up") == 1 })
		r := readState(t, st)
		eventually(t, "the other on record", func() bool { r = readState(t, st); return r.PID != r.Leader })
		over(st)
		if err := <-started; err != nil || s.Status().PID != r.PID {
			t.Errorf("%v, %+v, on record %+v", err, s.Status(), r)
		}
	})
	t.Run("it is told", func(t *testing.T) {
		st := newSpeaker(t, "READY=1")
		s := st.start()
		eventually(t, "the process", func() bool { return count(st.said(), "up") == 1 })
		first := s.Status().PID
		if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte("pass STATUS=gone"), 0o600); err != nil {
			t.Fatal(err)
		}
		st.opts.Reload = Reload{Exec: []string{"sh", "-c", fmt.Sprintf("kill -USR1 %d; %s", first, waits)}, Timeout: time.Minute}
		s.Configure(st.opts)
		told := make(chan error, 1)
		go func() { told <- s.Reload(t.Context(), nil) }()
		passed(st, first)
		over(st)
		if err := <-told; err != nil || s.Status().State != Running {
			t.Errorf("%v, %+v", err, s.Status())
		}
	})
}

// A process that has handed over may say that it stops: that is about itself.
func TestFormerMainStops(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	s := st.start()
	eventually(t, "the process", func() bool { return count(st.said(), "up") == 1 })
	first := s.Status().PID
	say := func(text string) {
		said := strings.Count(st.said(), "said")
		if err := errors.Join(os.WriteFile(filepath.Join(st.dir, "words"), []byte(text), 0o600), signalTo(first, syscall.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its words", func() bool { return strings.Count(st.said(), "said") > said })
	}
	say("name STATUS=drains|STOPPING=1") // the other may not have been looked at yet
	eventually(t, "the other", func() bool { return s.Status().PID != first })
	say("STOPPING=1;STATUS=ends")
	if err := s.ask(t.Context(), func() error { s.catchUp(); return nil }); err != nil {
		t.Fatal(err)
	}
	if now := s.Status(); now.State != Running || now.Text != "ends" || s.heard.isStopping() {
		t.Errorf("%+v", now)
	}
	second := s.Status().PID
	if err := signalTo(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the first, too", func() bool { return !alive(first) })
}

func TestMainPIDIsRefused(t *testing.T) {
	st := newSpeaker(t, "READY=1")
	var log strings.Builder
	st.log = &log
	s := st.start()
	pid := s.Status().PID
	eventually(t, "the process", func() bool { return strings.Contains(st.said(), "up\n") })
	for _, other := range []int{1, os.Getpid(), pid, 4194305} {
		st.tell(fmt.Sprintf("MAINPID=%d;STATUS=%d", other, other))
		looked := false
		eventually(t, "a look at it", func() bool {
			if err := s.ask(t.Context(), func() error { s.heed(); looked = s.heard.candidate(s.child) == nil; return nil }); err != nil {
				t.Fatal(err)
			}
			return looked
		})
		if status := s.Status(); status.PID != pid || status.Text != fmt.Sprint(other) {
			t.Errorf("%d: %+v", other, status)
		}
	}
	if err := st.end(); err != nil || strings.Count(log.String(), "it cannot be") != 1 {
		t.Errorf("%v, and the log does not say it once:\n%s", err, &log)
	}
}

// A candidate for the main process is spared until Run has looked at it, or nobody
// will any more.
func TestCandidateIsSpared(t *testing.T) {
	s, says := heardOf(t, Options{})
	s.heard.up()
	says("MAINPID=4194305")
	over := make(chan struct{})
	go func() { defer close(over); s.lastWord(s.child) }()
	select {
	case <-over:
		t.Error("it was not waited for")
	default:
	}
	s.heard.enter(stopPhase)
	<-over
	says("MAINPID=4194305") // nobody changes his mind now
	s.lastWord(s.child)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.confirmed(ctx, s.child, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
