package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"patchagent/applier"
)

// A step is what of a patch the agent waits for.
type step struct {
	Name    string    `json:"name"` // precheck, stop, start, reload, or a hook's
	Since   time.Time `json:"since"`
	Timeout string    `json:"timeout"` // as agent.toml has it; the process may ask for more
}

// steps is the one that is under way. Only the loop's goroutine begins one; anybody may
// look.
type steps struct {
	now     atomic.Pointer[step]
	timeout func(name string) (d time.Duration, has bool) // false: there is nothing to wait for
}

// at says that a step begins; done that it has ended.
func (p process) at(name string) (done func()) {
	if p.steps == nil {
		return func() {}
	}
	if timeout, has := p.steps.timeout(name); has {
		p.steps.now.Store(&step{Name: name, Since: time.Now(), Timeout: timeout.String()})
	}
	return func() { p.steps.now.Store(nil) }
}

// stepTimeout is how long a step may take by agent.toml.
func (a *agent) stepTimeout(name string) (d time.Duration, has bool) {
	t := a.cfg.Target
	verb := time.Duration(t.External.Timeout)
	switch name {
	case applier.EventPrecheck:
		return time.Duration(t.Reload.Timeout), len(t.Reload.Precheck) > 0
	case applier.EventStop:
		if t.External.Set {
			return verb, true
		}
		return time.Duration(t.StopTimeout), true
	case applier.EventStart:
		return time.Duration(t.Ready.Timeout), true
	case applier.EventReload:
		if t.External.Set && len(t.Reload.Exec) == 0 && t.Reload.HTTP == "" {
			return verb, true
		}
		return time.Duration(t.Reload.Timeout), true
	default:
		h := hooks(t)
		return h.Timeout, len(h.Commands[name]) > 0
	}
}

// text is the step as a part of a sentence.
func (s *step) text(now time.Time) string {
	what := map[string]string{
		applier.EventPrecheck: "in the precheck", applier.EventStop: "stopping the process",
		applier.EventStart: "starting the process", applier.EventReload: "telling the process",
	}[s.Name]
	if what == "" {
		what = "in the hook " + s.Name
	}
	return fmt.Sprintf("%s for %s (of %s)", what, now.Sub(s.Since).Round(time.Second), s.Timeout)
}

// at is the work with the step that it is at; nil if there is no work.
func (w *work) at(s *step) *work {
	if w == nil {
		return nil
	}
	with := *w
	with.Step = s
	return &with
}
