package applier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// counted makes the step with that number do something; it returns the names of
// all steps that came.
type counted struct {
	at    int
	do    func(step string) error
	steps []string
}

func (c *counted) fault(step string) error {
	c.steps = append(c.steps, step)
	if len(c.steps)-1 == c.at {
		return c.do(step)
	}
	return nil
}

// exact is the tree of a finished run: what it must be afterwards if it is new.
func exact(t *testing.T) (before, after map[string]string) {
	w := newWorld(t, oldTree)
	before = w.tree()
	_, err := w.apply(pack(t, true, newItems...), &proc{up: true})
	must(t, err)
	return before, w.tree()
}

// stride is 1: every step. With -short, as with the race detector, it is every fifth.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// Each step fails once, with a full disk and with a broken one: the patch is
// refused or rolled back, the tree is exactly the old one, the next patch works.
func TestEveryStepFails(t *testing.T) {
	before, after := exact(t)
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		ways(t, func(t *testing.T, exchange bool) {
			for at, done := 0, false; !done; at += stride() {
				w := newWorldIn(t, inMemory(t), oldTree)
				w.a.exchange = exchange
				c := &counted{at: at, do: func(string) error { return errno }}
				w.a.opts.Fault = c.fault
				r, err := w.apply(pack(t, false, newItems...), &proc{up: true})
				done = at >= len(c.steps)
				name := "after the last"
				if !done {
					name = c.steps[at]
				}
				w.a.opts.Fault = nil
				switch code, refused := reason.Of(err); {
				case name == "close" || name == "keep" || done:
					w.wantTree(after, name)
				case refused || r.Outcome == reason.RolledBack || r.Outcome == reason.Rejected:
					if !refused {
						code = r.Code
					}
					want := reason.CommitFailed
					switch {
					case errno == syscall.ENOSPC:
						want = reason.NoSpace
					case r.Outcome == reason.Rejected:
						want = reason.NotAllowed
					}
					if (r.Outcome == reason.Rejected) != (name == "hook before_stop") {
						t.Errorf("%s: %s", name, r.Outcome)
					}
					if code != want {
						t.Errorf("%s: code %s, want %s", name, code, want)
					}
					w.wantTree(before, name)
				default:
					t.Errorf("%s: %+v, %v", name, r, err)
				}
				w.again(name, after)
			}
		})
	}
}

// again sees to it that a fresh agent recovers and that the patch then goes in.
func (w *world) again(when string, after map[string]string) {
	w.t.Helper()
	w.a.Close()
	w.open()
	w.settle(when)
	if r, err := w.apply(pack(w.t, false, newItems...), &proc{up: true}); err != nil || r.Outcome != reason.Applied {
		w.t.Errorf("%s: the next patch: %+v, %v", when, r, err)
	}
	w.wantTree(after, when+", and the patch again:")
}

// settle recovers and ends what is left, as the agent does.
func (w *world) settle(when string) {
	w.t.Helper()
	tx, err := w.a.Recover(context.Background(), &proc{})
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	if tx != nil {
		must(w.t, tx.Close())
	}
}

// crash is what a step panics with that ends the program there.
type crash struct{}

// crashing runs do until it ends or crashes.
func crashing(do func()) (crashed bool) {
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(crash); !ok {
				panic(v)
			}
			crashed = true
		}
	}()
	do()
	return false
}

func crashHere(string) error { panic(crash{}) }

// The program ends at each step, and at each step of its recovery: the tree is
// exactly the old one or exactly the new one, and the journal says which.
func TestEveryStepCrashes(t *testing.T) {
	before, after := exact(t)
	broken := &proc{up: true, fail: map[string]error{"start start": reason.Errorf(reason.StartFailed, "broken")}}
	for name, p := range map[string]*proc{"goes well": {up: true}, "rolls back": broken} {
		t.Run(name, func(t *testing.T) {
			ways(t, func(t *testing.T, exchange bool) {
				for at, crashed := 0, true; crashed; at += stride() {
					for second := 0; ; second++ {
						w := newWorldIn(t, inMemory(t), oldTree)
						w.a.exchange = exchange
						c := &counted{at: at, do: crashHere}
						w.a.opts.Fault = c.fault
						own := *p
						crashed = crashing(func() { _, _ = w.apply(pack(t, false, newItems...), &own) })
						if !crashed {
							break
						}
						when := fmt.Sprintf("crash %d (%s), crash %d of the recovery", at, c.steps[at], second)
						if !w.crashRecovery(second) {
							w.judge(when, before, after)
							break
						}
						w.judge(when, before, after)
					}
				}
			})
		})
	}
}

// crashRecovery crashes the recovery at a step, and says whether it came so far.
func (w *world) crashRecovery(at int) bool {
	w.t.Helper()
	w.a.Close()
	w.open()
	c := &counted{at: at, do: crashHere}
	w.a.opts.Fault = c.fault
	return crashing(func() { w.settle("recovery") })
}

// judge recovers and compares.
func (w *world) judge(when string, before, after map[string]string) {
	w.t.Helper()
	w.a.Close()
	w.open()
	tx, err := w.a.Recover(context.Background(), &proc{})
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	got := w.tree()
	isOld, isNew := cmp.Equal(before, got), cmp.Equal(after, got)
	switch {
	case !isOld && !isNew:
		w.t.Errorf("%s: neither old nor new:\n%s", when, cmp.Diff(before, got))
	case tx != nil && tx.State() == journal.Committed && !isNew:
		w.t.Errorf("%s: the journal says committed, the tree is old", when)
	case tx != nil && tx.State() != journal.Committed && !isOld:
		w.t.Errorf("%s: the journal says %s, the tree is new", when, tx.State())
	}
	if tx != nil {
		must(w.t, tx.Close())
	}
	w.nothingLeft()
}

// A rollback that cannot be finished says so, keeps the journal, and is finished
// by the next start.
func TestRollbackFails(t *testing.T) {
	before, _ := exact(t)
	w := newWorld(t, oldTree)
	fail := errors.New("no rights")
	w.a.opts.Fault = func(step string) error {
		if step == "undo step 3" {
			return fail
		}
		return nil
	}
	plan, err := w.a.Plan(t.Context(), pack(t, true, newItems...))
	must(t, err)
	tx, err := w.a.Stage(t.Context(), pack(t, true, newItems...), plan, Patch{ID: "1", Warm: true})
	must(t, err)
	p := &proc{up: true, fail: map[string]error{"reload reload": reason.Errorf(reason.ReloadFailed, "deaf")}}
	r, err := tx.Apply(t.Context(), p)
	must(t, err)
	if r.Outcome != reason.Failed || r.Code != reason.RollbackFailed || !strings.HasPrefix(r.Detail, TreeBetween) || r.Downtime != 0 {
		t.Errorf("%+v", r)
	}
	if open, err := Pending(w.opts.State); err != nil || open == nil || open.ID != "1" {
		t.Errorf("open: %v, %v", open, err)
	}
	w.a.Close()
	w.opts.Fault = nil
	w.open()
	again, err := w.a.Recover(context.Background(), &proc{})
	must(t, err)
	if code, _ := again.Cause(); again.State() != journal.Undone || code != reason.ReloadFailed {
		t.Errorf("%s because of %s", again.State(), code)
	}
	w.wantTree(before, "after the next start")
	must(t, again.Close())
	if open, err := Pending(w.opts.State); err != nil || open != nil {
		t.Errorf("open after its end: %v, %v", open, err)
	}
}
