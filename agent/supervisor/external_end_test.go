//go:build linux

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A service that ends after a stop that has failed was told to: it is started again, by
// this agent or the next. One that goes on is not touched, and in time it is its
// manager's again.
func TestExternalEndsAfterItsStop(t *testing.T) {
	const told = "leaving"
	for _, c := range []struct {
		name    string
		silent  bool // the status command says nothing meanwhile
		another bool // agent sees the end
		stays   bool // until it is its manager's
		verbs   []string
	}{
		{"it takes longer", false, false, false, []string{"stop", "stop", "start"}},
		{"nobody knew", true, false, false, []string{"stop", "stop", "start"}},
		{"the next agent", false, true, false, []string{"stop", "stop", "start"}},
		{"it stays", false, false, true, []string{"stop", "stop"}},
		{"it stays, and the next agent", false, true, true, []string{"stop", "stop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.put("stop", "touch "+told+"; exit 1") // so that it is not waited for longer than grace
			x := m.run(true)
			if c.silent {
				m.put("status", "exit 127")
			}
			for range 2 { // for the patch, and for its undoing
				if err := x.Stop(t.Context(), nil); !errors.Is(err, ErrStopFailed) || !x.Up() {
					t.Fatalf("%v, %+v", err, x.Status())
				}
			}
			record := m.opts.StateFile + markSuffix
			if _, err := os.Stat(record); err != nil {
				t.Error(err)
			}
			x.Resume()
			if c.another {
				if err := m.end(); err != nil {
					t.Fatal(err)
				}
				if !c.stays {
					m.remove("active")
				}
				m.begin(c.stays)
				x = m.x
				x.Resume()
			}
			if c.stays {
				if err := x.ask(t.Context(), func() error { x.linger = time.Nanosecond; return nil }); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it to be its manager's", func() bool { _, err := os.Stat(record); return err != nil })
			}
			m.remove("active")
			if c.silent {
				m.remove("status")
			}
			if c.stays {
				eventually(t, "its end to be seen", func() bool { return x.Status().State == Ended })
			} else {
				eventually(t, "it to be up again", func() bool { return m.active() && x.Up() })
			}
			m.wantVerbs(c.verbs...)
			if _, err := os.Stat(record); err == nil {
				t.Error("it is on record still")
			}
		})
	}
}

// While a patch is at its files, a service that ends late is not started.
func TestExternalEndsInThePatch(t *testing.T) {
	m := newManager(t)
	m.put("stop", "exit 1")
	x := m.run(true)
	if err := x.Stop(t.Context(), nil); !errors.Is(err, ErrStopFailed) {
		t.Fatal(err)
	}
	m.remove("active")
	eventually(t, "its end to be seen", func() bool { return x.Status().State == Stopped })
	m.wantVerbs("stop")
	x.Resume()
	eventually(t, "it to be up again", x.Up)
	m.wantVerbs("stop", "start")
}

// The end of the agent does not wait for a command that hangs, and neither does whoever
// calls Resume: not while the service is followed, and not while it is started again.
func TestExternalHangs(t *testing.T) {
	const hang = "touch hangs; exec sleep 1000"
	for name, c := range map[string]struct {
		owed  bool // it was stopped here
		verbs map[string]string
	}{
		"status, while it is followed":     {false, map[string]string{"status": hang}},
		"status, while it is to be up":     {true, map[string]string{"status": hang}},
		"stop, as it may be up already":    {true, map[string]string{"status": "exit 127", "stop": hang}},
		"start":                            {true, map[string]string{"start": hang}},
		"stop, as it has not come up well": {true, map[string]string{"start": "touch active; exit 1", "stop": hang}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.opts.Verbs.Timeout = time.Hour
			x := m.run(true)
			if c.owed {
				if err := x.Stop(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			for verb, does := range c.verbs {
				m.put(verb, does)
			}
			x.Resume()
			eventually(t, "the command that hangs", func() bool { _, err := os.Stat(filepath.Join(m.dir, "hangs")); return err == nil })
			over := make(chan error, 1)
			go func() {
				x.Resume()
				over <- m.end()
			}()
			select {
			case err := <-over:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it is waited for")
			}
			if _, err := os.Stat(m.opts.StateFile + markSuffix); c.owed != (err == nil) {
				t.Errorf("on record: %v", err)
			}
		})
	}
}
