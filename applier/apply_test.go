package applier

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

var oldTree = map[string]string{"a.txt": "old a", "lib/b.txt": "old b", "lib/c.txt": "old c", "deep/er/d.txt": "old d", "left.txt": "left"}

// newItems change oldTree in every way there is.
var newItems = []item{
	del("lib/c.txt"), del("deep/er/d.txt"),
	mod("a.txt", "new a"), mod("lib/b.txt", "new b, longer"), mod("was/not/there.txt", "mod"),
	add("lib/new.txt", "new"), add("more/and/more/e.txt", "e"), add("left.txt", "not left"),
}

var newTree = map[string]string{
	"a.txt": "644 new a", "lib/": "755", "lib/b.txt": "644 new b, longer", "lib/new.txt": "644 new", "deep/": "755", "deep/er/": "755",
	"was/": "755", "was/not/": "755", "was/not/there.txt": "644 mod", "more/": "755", "more/and/": "755", "more/and/more/": "755",
	"more/and/more/e.txt": "644 e", "left.txt": "644 not left",
}

// ways are the two ways in which a file can take another's place.
func ways(t *testing.T, test func(t *testing.T, exchange bool)) {
	for name, exchange := range map[string]bool{"exchange": true, "link and rename": false} {
		t.Run(name, func(t *testing.T) { test(t, exchange) })
	}
}

func TestApply(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		for _, c := range []struct {
			name  string
			warm  bool
			up    bool
			calls []string
		}{
			{"warm", true, true, []string{"reload reload"}},
			{"warm, process down", true, false, []string{"start start"}},
			{"cold", false, true, []string{"stop", "start start"}},
			{"cold, process down", false, false, []string{"stop", "start start"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, oldTree)
				w.a.exchange = exchange
				p := &proc{up: c.up, seen: func() { w.wantTree(newTree, "when the process looks,") }}
				r, err := w.apply(pack(t, c.warm, newItems...), p)
				must(t, err)
				if r.Outcome != reason.Applied {
					t.Errorf("%+v", r)
				}
				w.wantTree(newTree, "afterwards")
				if diff := cmp.Diff(c.calls, p.calls); diff != "" {
					t.Error(diff)
				}
				w.nothingLeft()
			})
		}
	})
}

// nothingLeft checks that the state folder holds nothing of a transaction.
func (w *world) nothingLeft() {
	w.t.Helper()
	tx, err := w.a.Recover(context.Background(), &proc{})
	must(w.t, err)
	if tx != nil {
		w.t.Errorf("a transaction is left: %s", tx.State())
	}
	names, err := os.ReadDir(w.a.txPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	if len(names) > 0 {
		w.t.Errorf("the transaction's folder still holds %v", names)
	}
}

func TestCounts(t *testing.T) {
	w := newWorld(t, oldTree)
	plan, err := w.a.Plan(t.Context(), pack(t, true, append(newItems, del("not.there"))...))
	must(t, err)
	want := journal.Counts{Created: 3, Modified: 3, Deleted: 2, Bytes: 5 + 13 + 3 + 3 + 1 + 8}
	if diff := cmp.Diff(want, plan.Counts); diff != "" {
		t.Error(diff)
	}
	for _, said := range []string{"not.there was to be deleted", "was/not/there.txt was to be modified", "left.txt is new in the package"} {
		if !slices.ContainsFunc(plan.Notes, func(n string) bool { return strings.HasPrefix(n, said) }) {
			t.Errorf("no note %q in %q", said, plan.Notes)
		}
	}
}

func TestNothingToChange(t *testing.T) {
	w := newWorld(t, map[string]string{"a": "same", "b": "same"})
	plan, err := w.a.Plan(t.Context(), pack(t, false, mod("a", "same"), add("b", "same"), del("c")))
	must(t, err)
	if len(plan.Changes) != 0 || plan.Counts != (journal.Counts{}) {
		t.Errorf("%+v", plan)
	}
}

// What fails on the way to the new build is undone, and the process is back on
// the old one.
func TestProcessFails(t *testing.T) {
	old := map[string]string{
		"a.txt": "644 old a", "lib/": "755", "lib/b.txt": "644 old b", "lib/c.txt": "644 old c", "deep/": "755", "deep/er/": "755",
		"deep/er/d.txt": "644 old d", "left.txt": "644 left",
	}
	ways(t, func(t *testing.T, exchange bool) {
		for _, c := range []struct {
			name  string
			warm  bool
			fails map[string]error
			code  reason.Code
			calls []string
		}{
			{"reload", true, map[string]error{"reload reload": reason.Errorf(reason.ReloadFailed, "deaf")}, reason.ReloadFailed,
				[]string{"reload reload", "reload rollback"}},
			{"start", false, map[string]error{"start start": reason.Errorf(reason.StartFailed, "broken")}, reason.StartFailed,
				[]string{"stop", "start start", "stop", "start rollback"}},
			{"it ends when it was up", false, map[string]error{"still up": reason.Errorf(reason.StartFailed, "gone")}, reason.StartFailed,
				[]string{"stop", "start start", "stop", "start rollback"}},
			{"it ends when it was told", true, map[string]error{"still up": reason.Errorf(reason.StartFailed, "gone")}, reason.StartFailed,
				[]string{"reload reload", "reload rollback"}},
			{"stop", false, map[string]error{"stop": reason.Errorf(reason.StopFailed, "stuck")}, reason.StopFailed,
				[]string{"stop", "stop"}},
			{"start, and start again", false, map[string]error{"start start": reason.Errorf(reason.NotReady, "slow"), "start rollback": errors.New("broken too")},
				reason.NotReady, []string{"stop", "start start", "stop", "start rollback"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, oldTree)
				w.a.exchange = exchange
				p := &proc{up: true, fail: c.fails}
				r, err := w.apply(pack(t, c.warm, newItems...), p)
				must(t, err)
				if r.Outcome != reason.RolledBack || r.Code != c.code {
					t.Errorf("%+v", r)
				}
				if strings.Count(r.Detail, "stuck") > 1 {
					t.Errorf("twice: %s", r.Detail)
				}
				if away := c.calls[len(c.calls)-1] == "start rollback"; away != (r.Downtime > 0) {
					t.Errorf("it was away for %s", r.Downtime)
				}
				if diff := cmp.Diff(c.calls, p.calls); diff != "" {
					t.Error(diff)
				}
				w.wantTree(old, "afterwards")
				w.nothingLeft()
			})
		}
	})
}

// The process may change its files between the commit and the rollback.
func TestRollbackOverWhatTheProcessDid(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		w := newWorld(t, oldTree)
		w.a.exchange = exchange
		before := w.tree()
		p := &proc{up: true, fail: map[string]error{"reload reload": reason.Errorf(reason.ReloadFailed, "deaf")}}
		first := true
		p.seen = func() {
			if first {
				w.lay(map[string]string{"a.txt": "the process was here", "lib/c.txt": "made again", "more/own.txt": "its own"})
			}
			first = false
		}
		r, err := w.apply(pack(t, true, newItems...), p)
		must(t, err)
		if r.Outcome != reason.RolledBack || !strings.Contains(r.Detail, "a.txt had been changed") || !strings.Contains(r.Detail, "more was made by the patch") {
			t.Errorf("%+v", r)
		}
		before["more/"], before["more/own.txt"] = "755", "644 its own"
		w.wantTree(before, "afterwards")
		for name, want := range map[string]string{"a.txt": "the process was here", "lib/c.txt": "made again"} {
			if data, err := os.ReadFile(filepath.Join(w.opts.State, asideName, "1", name)); err != nil || string(data) != want {
				t.Errorf("aside %s: %q, %v", name, data, err)
			}
		}
	})
}

// A process that was told nothing of the new files is told nothing of the old ones.
func TestPrecheckFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		warm  bool
		up    bool
		calls []string
	}{
		{"warm", true, true, nil}, {"warm, process down", true, false, []string{"start rollback"}},
		{"cold", false, true, []string{"stop", "stop", "start rollback"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, oldTree)
			before := w.tree()
			p := &proc{up: c.up, fail: map[string]error{"precheck": reason.Errorf(reason.PrecheckFailed, "no")}}
			r, err := w.apply(pack(t, c.warm, newItems...), p)
			must(t, err)
			if r.Outcome != reason.RolledBack || r.Code != reason.PrecheckFailed {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(c.calls, p.calls); diff != "" {
				t.Error(diff)
			}
			w.wantTree(before, "afterwards")
		})
	}
}

// A transaction without steps leaves the process alone, and its build can be returned to.
func TestBuildWithoutChanges(t *testing.T) {
	w := newWorld(t, oldTree)
	before := w.tree()
	p := &proc{up: true}
	tx, err := w.a.Stage(t.Context(), nil, &Plan{}, Patch{ID: "1", Build: 2, FromBuild: 1})
	must(t, err)
	r, err := tx.Apply(t.Context(), p)
	must(t, err)
	must(t, tx.Close())
	if r.Outcome != reason.Applied {
		t.Errorf("%+v", r)
	}
	w.build = 2
	r, err = w.back(1, false, p)
	must(t, err)
	if r.Code != reason.Requested || len(p.calls) > 0 {
		t.Errorf("%+v, %v", r, p.calls)
	}
	w.wantTree(before, "afterwards")
}

// Who confirms a committed transaction and is interrupted counts, who ends in order
// does not.
func TestConfirmationsAreCounted(t *testing.T) {
	w := newWorld(t, oldTree)
	pkg := pack(t, true, newItems...)
	plan, err := w.a.Plan(t.Context(), pkg)
	must(t, err)
	tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1", Warm: true})
	must(t, err)
	must(t, tx.Commit())
	for i, paused := range []bool{false, true, false, false} {
		if want := []int{0, 1, 1, 2}[i]; tx.Interrupted() != want {
			t.Errorf("agent %d: %d interruptions, want %d", i, tx.Interrupted(), want)
		}
		if paused {
			tx.Pause()
		}
		w.a.Close()
		w.open()
		tx, err = w.a.Recover(t.Context(), &proc{})
		must(t, err)
	}
	r := tx.RollBack(t.Context(), &proc{up: true}, reason.Errorf(reason.Interrupted, "too often"))
	if r.Outcome != reason.RolledBack || r.Code != reason.Interrupted {
		t.Errorf("%+v", r)
	}
}

// An agent that is killed while it undoes a cold patch leaves a process on the new
// files; the next one stops it before it goes on undoing.
func TestRecoveryStopsWhatRunsOnTheNewFiles(t *testing.T) {
	for _, warm := range []bool{true, false} {
		w := newWorld(t, oldTree)
		before := w.tree()
		pkg := pack(t, warm, newItems...)
		plan, err := w.a.Plan(t.Context(), pkg)
		must(t, err)
		tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1", Warm: warm})
		must(t, err)
		must(t, tx.Commit())
		must(t, tx.begin(reason.Errorf(reason.Unhealthy, "ill")))
		w.a.Close()
		w.open()
		p := &proc{up: true, seen: func() { w.wantTree(before, "when the process looks,") }}
		tx, err = w.a.Recover(t.Context(), p)
		must(t, err)
		tx.Return(t.Context(), p)
		want := []string{"stop", "start rollback"}
		if warm {
			want = []string{"reload rollback"}
		}
		if diff := cmp.Diff(want, p.calls); diff != "" {
			t.Error(diff)
		}
		if r := tx.Undone(); r.Code != reason.Unhealthy || r.Detail != "ill" {
			t.Errorf("%+v", r)
		}
	}
}

// For how long the process is away is counted on by the next agent, from the same stop;
// but not where an earlier agent has brought it up and nobody knows when.
func TestDowntimeOverAgents(t *testing.T) {
	for _, c := range []struct {
		at    string // where the first agent ends
		fails string // the call of the process that fails
		code  reason.Code
		known bool
	}{
		{"precheck", "", "", true},
		{"precheck", "start start", reason.StartFailed, true},
		{"undo step 0", "precheck", reason.PrecheckFailed, true},
		{"undo step 0", HookAfterStart, reason.Unhealthy, true},
		{"return", "precheck", reason.PrecheckFailed, true},
		{"hook after_start", "", "", false},
		{"hook after_rollback", "precheck", reason.PrecheckFailed, false},
	} {
		w := newWorldIn(t, inMemory(t), oldTree)
		p := &proc{up: true, fail: map[string]error{}, hooks: func(Event) {}}
		if c.fails != "" {
			p.fail[c.fails] = reason.Errorf(c.code, "no")
		}
		var since time.Time
		w.a.opts.Fault = func(step string) error {
			if step == c.at {
				since = time.Now().Round(0) // by the clock that outlives an agent
				panic(crash{})
			}
			return nil
		}
		if !crashing(func() { _, _ = w.apply(pack(t, false, newItems...), p) }) {
			t.Fatalf("it never came to %s", c.at)
		}
		var tx *Tx
		for range 2 { // one more that comes no further
			w.a.Close()
			w.open()
			var err error
			tx, err = w.a.Recover(t.Context(), p)
			must(t, err)
			tx.Pause()
		}
		away := time.Now().Round(0).Sub(since)
		var r Result
		if tx.State() == journal.Committed {
			var err error
			r, err = tx.Apply(t.Context(), p)
			must(t, err)
		} else {
			tx.Return(t.Context(), p)
			r = tx.Undone()
		}
		if r.Code != c.code || c.known && r.Downtime < away || !c.known && r.Downtime != 0 {
			t.Errorf("%s, and %q fails: %+v; away for %s at least", c.at, c.fails, r, away)
		}
	}
}

// An agent that is stopped while a patch is on probation stops the process with it, which
// is not what the patch cost.
func TestDowntimeOfAPause(t *testing.T) {
	w := newWorld(t, oldTree)
	pkg := pack(t, false, newItems...)
	plan, err := w.a.Plan(t.Context(), pkg)
	must(t, err)
	tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1"})
	must(t, err)
	first, err := tx.Apply(t.Context(), &proc{up: true})
	must(t, err)
	tx.Pause()
	w.a.Close()
	w.open()
	p := &proc{}
	tx, err = w.a.Recover(t.Context(), p)
	must(t, err)
	r, err := tx.Apply(t.Context(), p)
	must(t, err)
	if first.Downtime == 0 || r.Downtime != first.Downtime {
		t.Errorf("away for %s, and for %s by the next agent", first.Downtime, r.Downtime)
	}
}
