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
				for late := time.Now().Add(30 * time.Second); count(st.said(), "up") < 2 || s.heard.candidate(s.child) == nil; time.Sleep(2 * time.Millisecond) {
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

func TestMainPIDIsRefused(t *testing.T) {
	st := newSpeaker(t, "READY=1")
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
