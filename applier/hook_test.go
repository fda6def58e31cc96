package applier

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// hooked is a process with a hook for every event, and what each of them found: which
// tree there was, and whether the process was up.
func (w *world) hooked(up bool, before, after map[string]string) (p *proc, found func() []string) {
	p = &proc{up: up, fail: map[string]error{}}
	var seen []string
	p.hooks = func(e Event) {
		tree := "neither"
		switch got := w.tree(); {
		case cmp.Equal(got, before):
			tree = "old"
		case cmp.Equal(got, after):
			tree = "new"
		}
		state := map[bool]string{true: "up", false: "down"}[p.up]
		seen = append(seen, fmt.Sprintf("%s: %s, %s", e.Name, tree, state))
	}
	return p, func() []string { return seen }
}

// Each hook finds the tree and the process as they are to be then, in both strategies.
func TestHooks(t *testing.T) {
	before, after := exact(t)
	for _, c := range []struct {
		name  string
		warm  bool
		up    bool
		found []string
		calls string
	}{
		{"warm", true, true, []string{"before_stop: old, up", "after_files: new, up", "after_start: new, up"},
			"before_stop, after_files, reload reload, after_start"},
		{"warm, process down", true, false, []string{"before_stop: old, down", "after_files: new, down", "after_start: new, up"},
			"before_stop, after_files, start start, after_start"},
		{"cold", false, true, []string{"before_stop: old, up", "after_files: new, down", "after_start: new, up"},
			"before_stop, stop, after_files, start start, after_start"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, oldTree)
			p, found := w.hooked(c.up, before, after)
			r, err := w.apply(pack(t, c.warm, newItems...), p)
			must(t, err)
			if r.Outcome != reason.Applied {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(c.found, found()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.calls, strings.Join(p.calls, ", ")); diff != "" {
				t.Error(diff)
			}
			w.wantTree(after, "afterwards")
			w.nothingLeft()
		})
	}
}

// What the failure of each hook leaves: the tree is the old one, whole, and the process
// was told as much as it had to be.
func TestHookFails(t *testing.T) {
	before, after := exact(t)
	for _, c := range []struct {
		hook    string
		code    reason.Code
		outcome reason.Outcome
		warm    string // what the process and the hooks were asked, in a warm patch
		cold    string // and in a cold one
	}{
		{HookBeforeStop, reason.NotAllowed, reason.Rejected, "before_stop", "before_stop"},
		{HookAfterFiles, reason.PrecheckFailed, reason.RolledBack, "before_stop, after_files, after_rollback",
			"before_stop, stop, after_files, stop, start rollback, after_rollback"},
		{HookAfterStart, reason.Unhealthy, reason.RolledBack, "before_stop, after_files, reload reload, after_start, reload rollback, after_rollback",
			"before_stop, stop, after_files, start start, after_start, stop, start rollback, after_rollback"},
	} {
		for _, warm := range []bool{true, false} {
			ways(t, func(t *testing.T, exchange bool) {
				w := newWorld(t, oldTree)
				w.a.exchange = exchange
				p, found := w.hooked(true, before, after)
				p.fail[c.hook] = reason.Errorf(c.code, "the command of %s failed", c.hook)
				p.fail[HookAfterRollback] = reason.Errorf(reason.Unhealthy, "and so did the last")
				r, err := w.apply(pack(t, warm, newItems...), p)
				must(t, err)
				if r.Outcome != c.outcome || r.Code != c.code || !strings.HasPrefix(r.Detail, "the command of "+c.hook) {
					t.Errorf("%s: %+v", c.hook, r)
				}
				last := found()[len(found())-1]
				if c.outcome == reason.RolledBack && (last != "after_rollback: old, up" || !strings.HasSuffix(r.Detail, "; and so did the last")) {
					t.Errorf("%s: %s, %+v", c.hook, last, r)
				}
				if (r.Downtime > 0) != (!warm && c.hook != HookBeforeStop) {
					t.Errorf("%s: away for %s", c.hook, r.Downtime)
				}
				if diff := cmp.Diff(map[bool]string{true: c.warm, false: c.cold}[warm], strings.Join(p.calls, ", ")); diff != "" {
					t.Errorf("%s: %s", c.hook, diff)
				}
				w.wantTree(before, "after "+c.hook)
				w.nothingLeft()
				p.fail = nil
				if !p.up {
					t.Errorf("%s: the process is down", c.hook)
				}
				if r, err := w.apply(pack(t, warm, newItems...), p); err != nil || r.Outcome != reason.Applied {
					t.Errorf("%s, and again: %+v, %v", c.hook, r, err)
				}
				w.wantTree(after, "after "+c.hook+", and again")
			})
		}
	}
}

// A rollback by hand is a patch that goes the other way; one without an agent, or
// without changes, is nobody's business.
func TestHooksOfARollback(t *testing.T) {
	before, after := exact(t)
	for _, warm := range []bool{true, false} {
		w := newWorld(t, oldTree)
		p, found := w.hooked(true, after, before)
		_, err := w.apply(pack(t, warm, newItems...), &proc{up: true})
		must(t, err)
		w.build = 300
		p.fail[HookBeforeStop] = reason.Errorf(reason.NotAllowed, "no")
		r, err := w.back(200, false, p)
		must(t, err)
		if r.Outcome != reason.Rejected || r.Code != reason.NotAllowed {
			t.Errorf("%+v", r)
		}
		w.wantTree(after, "when it was refused")
		p.fail = nil
		r, err = w.back(200, false, p)
		must(t, err)
		if r.Code != reason.Requested {
			t.Errorf("%+v", r)
		}
		files := "after_files: new, up"
		if !warm {
			files = "after_files: new, down"
		}
		if diff := cmp.Diff([]string{"before_stop: old, up", "before_stop: old, up", files, "after_start: new, up"}, found()); diff != "" {
			t.Error(diff)
		}
		w.wantTree(before, "afterwards")
	}
	w := newWorld(t, oldTree)
	p, _ := w.hooked(true, before, after)
	tx, err := w.a.Stage(t.Context(), nil, &Plan{}, Patch{ID: "1", Build: 2, FromBuild: 1})
	must(t, err)
	if _, err := tx.Apply(t.Context(), p); err != nil || len(p.calls) > 0 {
		t.Errorf("a patch without changes: %v, %v", err, p.calls)
	}
}

// An agent that is told to end while a hook runs leaves the patch as it does in a
// precheck: taken back before the commit, to be confirmed after it.
func TestEndInAHook(t *testing.T) {
	before, after := exact(t)
	for hook, state := range map[string]journal.State{HookBeforeStop: "", HookAfterFiles: journal.Committed, HookAfterStart: journal.Committed} {
		for _, warm := range []bool{true, false} {
			w := newWorld(t, oldTree)
			pkg := pack(t, warm, newItems...)
			plan, err := w.a.Plan(t.Context(), pkg)
			must(t, err)
			tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1", Warm: warm})
			must(t, err)
			ctx, end := context.WithCancel(t.Context())
			p, _ := w.hooked(true, before, after)
			p.hooks = func(e Event) {
				if e.Name == hook {
					end()
				}
			}
			p.fail[hook] = context.Canceled
			if r, err := tx.Apply(ctx, p); err == nil {
				t.Errorf("%s: %+v", hook, r)
			}
			if i := slices.Index(p.calls, HookAfterRollback); i >= 0 {
				t.Errorf("%s: %v", hook, p.calls)
			}
			end()
			w.a.Close()
			w.open()
			again, found := w.hooked(p.up, before, after)
			tx, err = w.a.Recover(t.Context(), again)
			must(t, err)
			if state == "" {
				if tx != nil {
					t.Errorf("%s: %s", hook, tx.State())
				}
				w.wantTree(before, hook)
				continue
			}
			if tx.State() != state || tx.Interrupted() > 0 {
				t.Errorf("%s: %s, interrupted %d times", hook, tx.State(), tx.Interrupted())
			}
			if r, err := tx.Apply(t.Context(), again); err != nil || r.Outcome != reason.Applied {
				t.Errorf("%s: %+v, %v", hook, r, err)
			}
			if last := found()[len(found())-1]; last != "after_start: new, up" {
				t.Errorf("%s: %v", hook, found())
			}
			w.wantTree(after, hook)
		}
	}
}

// The last hook runs also if the agent is told to end while the process comes back.
func TestLastHookIsNotCutShort(t *testing.T) {
	before, after := exact(t)
	w := newWorld(t, oldTree)
	pkg := pack(t, false, newItems...)
	plan, err := w.a.Plan(t.Context(), pkg)
	must(t, err)
	tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1"})
	must(t, err)
	p, found := w.hooked(true, before, after)
	p.fail[HookAfterFiles] = reason.Errorf(reason.PrecheckFailed, "no")
	ctx, end := context.WithCancel(t.Context())
	defer end()
	p.seen = end
	if r, err := tx.Apply(ctx, p); err != nil || r.Detail != "no" {
		t.Errorf("%+v, %v", r, err)
	}
	if last := found()[len(found())-1]; last != "after_rollback: old, up" {
		t.Errorf("%q", found())
	}
}

// A transaction that the next agent finds undone, or undoes, has its last hook then.
func TestHookOfARecovery(t *testing.T) {
	before, after := exact(t)
	for _, reached := range []string{"hook after_files", "undoing", "undone", "hook after_rollback"} {
		w := newWorld(t, oldTree)
		p, _ := w.hooked(true, before, after)
		p.fail[HookAfterStart] = reason.Errorf(reason.Unhealthy, "no")
		w.a.opts.Fault = func(step string) error {
			if step == reached {
				panic(crash{})
			}
			return nil
		}
		if !crashing(func() { _, _ = w.apply(pack(t, false, newItems...), p) }) {
			t.Fatalf("it never came to %s", reached)
		}
		w.a.Close()
		w.open()
		again, found := w.hooked(p.up, before, after)
		again.fail[HookAfterStart] = p.fail[HookAfterStart]
		tx, err := w.a.Recover(t.Context(), again)
		must(t, err)
		if tx.State() == journal.Committed {
			_, err = tx.Apply(t.Context(), again)
			must(t, err)
		} else {
			tx.Return(t.Context(), again)
		}
		if last := found()[len(found())-1]; last != "after_rollback: old, up" || strings.Count(strings.Join(found(), "\n"), "after_rollback") != 1 {
			t.Errorf("%s: %q", reached, found())
		}
		w.wantTree(before, reached)
	}
}

// An agent that was killed before the first file changed has left nothing to undo: a
// process that is up is not told, one that was stopped is started, and the last hook runs
// only for a transaction that is given up. If something had changed all that is done,
// also by the agent after the next.
func TestInterruptedUntouched(t *testing.T) {
	before, _ := exact(t)
	for _, c := range []struct {
		at        string // where the first agent is killed
		item      item   // one for each kind of step
		untouched bool
		warm      string // what a warm one asks of process and hooks
		cold      string
	}{
		{"hook before_stop", mod("a.txt", "new a"), true, "", ""},
		{"commit step 0", mod("a.txt", "new a"), true, "", "start rollback"},
		{"commit step 0", add("lib/new.txt", "new"), true, "", "start rollback"},
		{"commit step 0", del("lib/c.txt"), true, "", "start rollback"},
		{"commit step 0", add("more/e.txt", "e"), true, "", "start rollback"},
		{"committed", mod("a.txt", "new a"), false, "reload rollback, after_rollback", "start rollback, after_rollback"},
		{"committed", add("lib/new.txt", "new"), false, "reload rollback, after_rollback", "start rollback, after_rollback"},
		{"committed", del("lib/c.txt"), false, "reload rollback, after_rollback", "start rollback, after_rollback"},
		{"commit step 1", add("more/e.txt", "e"), false, "reload rollback, after_rollback", "start rollback, after_rollback"},
	} {
		ways(t, func(t *testing.T, exchange bool) {
			for _, warm := range []bool{true, false} {
				want := map[bool]string{true: c.warm, false: c.cold}[warm]
				w := newWorldIn(t, inMemory(t), oldTree)
				w.a.exchange = exchange
				p, _ := w.hooked(true, before, nil)
				w.a.opts.Fault = func(step string) error {
					if step == c.at {
						panic(crash{})
					}
					return nil
				}
				if !crashing(func() { _, _ = w.apply(pack(t, warm, c.item), p) }) {
					t.Fatalf("it never came to %s", c.at)
				}
				var tx *Tx
				for range 2 { // the first of them comes no further
					w.a.Close()
					w.open()
					var err error
					tx, err = w.a.Recover(t.Context(), p)
					must(t, err)
				}
				p.calls = nil
				if tx.Untouched() {
					tx.Resume(t.Context(), p)
				} else {
					tx.Return(t.Context(), p)
				}
				if got := strings.Join(p.calls, ", "); tx.Untouched() != c.untouched || got != want || !p.up {
					t.Errorf("%s of %s, warm %v: untouched %v, calls %q", c.at, c.item.place, warm, tx.Untouched(), got)
				}
				w.wantTree(before, c.at)
				p.calls = nil
				if tx.Return(t.Context(), p); c.untouched && strings.Join(p.calls, ", ") != HookAfterRollback {
					t.Errorf("%s of %s, given up: %v", c.at, c.item.place, p.calls)
				}
				must(t, tx.Close())
			}
		})
	}
}
