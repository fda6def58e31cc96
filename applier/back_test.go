package applier

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/manifest"
	"patchagent/manifest/reason"
)

// patched applies packages one after the other, as builds 1, 2 …; it returns the
// trees of all builds, that of build 0 first.
func (w *world) patched(packages ...*manifest.Package) []map[string]string {
	w.t.Helper()
	trees := []map[string]string{w.tree()}
	for i, pkg := range packages {
		plan, err := w.a.Plan(w.t.Context(), pkg)
		must(w.t, err)
		n := int64(i)
		tx, err := w.a.Stage(w.t.Context(), pkg, plan, Patch{ID: fmt.Sprint(n), Name: fmt.Sprintf("p%d.zip", n+1), Warm: pkg.Manifest.Warm, Build: n + 1, FromBuild: n})
		must(w.t, err)
		r, err := tx.Apply(w.t.Context(), &proc{up: true})
		must(w.t, err)
		if r.Outcome != reason.Applied {
			w.t.Fatalf("build %d: %+v", n+1, r)
		}
		must(w.t, tx.Close())
		w.build = n + 1
		trees = append(trees, w.tree())
	}
	return trees
}

// stageBack plans and stages the way back.
func (w *world) stageBack(to int64, force bool) (*Tx, error) {
	back, err := w.a.PlanBack(w.t.Context(), w.build, &to, force)
	if err != nil {
		return nil, err
	}
	return w.a.Stage(w.t.Context(), nil, back.Plan, Patch{ID: "back", Warm: back.Warm, Build: back.Build, FromBuild: 99})
}

func (w *world) back(to int64, force bool, p Process) (Result, error) {
	w.t.Helper()
	tx, err := w.stageBack(to, force)
	if err != nil {
		return Result{}, err
	}
	r, err := tx.Apply(w.t.Context(), p)
	if err == nil {
		err = tx.Close()
	}
	if r.Code == reason.Requested {
		w.build = to
	}
	return r, err
}

// changes are three patches that touch the same places in different ways.
func changes(t *testing.T) []*manifest.Package {
	return []*manifest.Package{
		pack(t, false, newItems...),
		pack(t, true, mod("a.txt", "newer a"), del("more/and/more/e.txt"), add("lib/c.txt", "c again"), del("lib/new.txt"), add("more/f.txt", "f")),
		pack(t, true, mod("a.txt", "newest a"), del("lib/c.txt"), add("more/and/more/e.txt", "e again"), del("deep/er"), add("lib/new.txt", "x"), add("x/y/z", "z")),
	}
}

func TestBackToEachBuild(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		for to := range 3 {
			t.Run(fmt.Sprint(to), func(t *testing.T) {
				w := newWorld(t, oldTree)
				w.a.exchange = exchange
				trees := w.patched(changes(t)...)
				p := &proc{up: true, seen: func() { w.wantTree(trees[to], "when the process looks,") }}
				r, err := w.back(int64(to), false, p)
				must(t, err)
				if r.Outcome != reason.RolledBack || r.Code != reason.Requested {
					t.Errorf("%+v", r)
				}
				want := []string{"stop", "start rollback"} // the first patch was cold
				if to > 0 {
					want = []string{"reload rollback"}
				}
				if diff := cmp.Diff(want, p.calls); diff != "" {
					t.Error(diff)
				}
				w.wantTree(trees[to], "afterwards")
				w.nothingLeft()
				// What is left can still be returned to, each exactly.
				for older := to - 1; older >= 0; older-- {
					_, err := w.back(int64(older), false, &proc{up: true})
					must(t, err)
					w.wantTree(trees[older], fmt.Sprintf("back to %d", older))
				}
				if _, err := w.back(0, false, &proc{up: true}); !errors.Is(err, ErrNoBuild) {
					t.Errorf("with nothing kept: %v", err)
				}
			})
		}
	})
}

// Whoever changes a file by hand is told, and it is not lost.
func TestBackOverWorkByHand(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		w := newWorld(t, oldTree)
		w.a.exchange = exchange
		trees := w.patched(changes(t)...)
		w.lay(map[string]string{"a.txt": "by hand", "lib/c.txt": "by hand too", "x/own": "stays"})
		must(t, os.Remove(filepath.Join(w.root, "left.txt")))
		must(t, os.RemoveAll(filepath.Join(w.root, "lib/b.txt")))
		before := w.tree()

		_, err := w.back(0, false, &proc{up: true})
		misfit, ok := errors.AsType[*Misfit](err)
		if !ok {
			t.Fatalf("error %v", err)
		}
		slices.Sort(misfit.Places)
		if diff := cmp.Diff([]string{"a.txt has been changed", "left.txt is gone", "lib/b.txt is gone", "lib/c.txt has been made again"}, misfit.Places); diff != "" {
			t.Error(diff)
		}
		w.wantTree(before, "after the refusal")
		w.nothingLeft()

		_, err = w.back(0, true, &proc{up: true})
		must(t, err)
		want := maps.Clone(trees[0])
		want["x/"], want["x/own"] = "755", "644 stays"
		w.wantTree(want, "forced")
		aside := map[string]string{}
		dir := filepath.Join(w.opts.State, asideName, "back")
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				data, readErr := os.ReadFile(path)
				aside[strings.TrimPrefix(path, dir+"/")], err = string(data), readErr
			}
			return err
		}))
		if diff := cmp.Diff(map[string]string{"a.txt": "by hand", "lib/c.txt": "by hand too"}, aside); diff != "" {
			t.Error(diff)
		}
	})
}

// A kept file that somebody wrote into, by another of its names, is not what was there.
func TestBackOverChangedKeptFile(t *testing.T) {
	w := newWorld(t, oldTree)
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.Link(filepath.Join(w.root, "a.txt"), other))
	w.patched(pack(t, true, mod("a.txt", "new")))
	must(t, os.WriteFile(other, []byte("spoilt"), 0o644))
	if _, err := w.back(0, false, &proc{up: true}); err == nil || !strings.Contains(err.Error(), "the kept file of a.txt is not the one that was there") {
		t.Errorf("error %v", err)
	}
}

// Metadata comes back with the file: it is the same one.
func TestBackKeepsTheFile(t *testing.T) {
	w := newWorld(t, oldTree)
	path := filepath.Join(w.root, "a.txt")
	must(t, os.Chmod(path, os.ModeSetuid|0o751))
	must(t, os.Chmod(filepath.Join(w.root, "deep/er"), os.ModeSetgid|0o770))
	must(t, os.Symlink("left.txt", filepath.Join(w.root, "link")))
	must(t, os.Remove(filepath.Join(w.root, "deep/er/d.txt")))
	before, err := os.Stat(path)
	must(t, err)
	trees := w.patched(pack(t, true, mod("a.txt", "new"), del("deep/er"), mod("link", "no link")))
	_, err = w.back(0, false, &proc{up: true})
	must(t, err)
	after, err := os.Stat(path)
	must(t, err)
	if !os.SameFile(before, after) || after.Mode() != before.Mode() || links(after) != 1 {
		t.Errorf("mode %s, %d links; before %s", after.Mode(), links(after), before.Mode())
	}
	if info, err := os.Stat(filepath.Join(w.root, "deep/er")); err != nil || info.Mode()&^os.ModeDir != os.ModeSetgid|0o770 {
		t.Errorf("folder: %v, %v", info, err)
	}
	w.wantTree(trees[0], "afterwards")
}

func TestKeepsAsManyAsAsked(t *testing.T) {
	w := newWorld(t, oldTree)
	w.opts.Keep = 2
	w.a.Configure(nil, nil, 2)
	w.patched(changes(t)...)
	builds, err := w.a.Builds()
	must(t, err)
	var got []int64
	for _, b := range builds {
		got = append(got, b.Build)
	}
	if diff := cmp.Diff([]int64{2, 1}, got); diff != "" {
		t.Error(diff)
	}
	w.a.Configure(nil, nil, 0)
	w.nothingLeft() // recovery prunes too
	if left, err := os.ReadDir(filepath.Join(w.opts.State, buildsName)); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// Each step of a rollback by hand fails or crashes, and so does its recovery.
func TestEveryStepOfARollback(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		lay := func(t *testing.T) (*world, []map[string]string) {
			w := newWorldIn(t, inMemory(t), oldTree)
			w.a.exchange = exchange
			trees := w.patched(changes(t)...)
			w.lay(map[string]string{"a.txt": "by hand"})
			trees[3] = w.tree()
			return w, trees
		}
		for at, more := 0, true; more; at += stride() {
			for second := -1; ; second++ {
				w, trees := lay(t)
				c := &counted{at: at, do: crashHere}
				if second < 0 {
					c.do = func(string) error { return fs.ErrPermission }
				}
				w.a.opts.Fault = c.fault
				more = crashing(func() { _, _ = w.back(0, true, &proc{up: true}) }) || second < 0 && at < len(c.steps)
				if !more {
					break
				}
				when := fmt.Sprintf("step %d (%s), crash %d of the recovery", at, c.steps[at], second)
				w.a.opts.Fault = nil
				done := second < 0 || !w.crashRecovery(second)
				w.judge(when, trees[3], trees[0])
				w.stillReturns(when, trees)
				if done && second >= 0 {
					break
				}
			}
		}
	})
}

// stillReturns sees to it that a rollback that was undone can be made again.
func (w *world) stillReturns(when string, trees []map[string]string) {
	w.t.Helper()
	builds, err := w.a.Builds()
	must(w.t, err)
	switch {
	case cmp.Equal(w.tree(), trees[0]):
		if len(builds) > 0 {
			w.t.Errorf("%s: it is done, and %d builds are kept", when, len(builds))
		}
	case len(builds) != 3:
		w.t.Errorf("%s: it was undone, and %d builds are kept", when, len(builds))
	default:
		_, err := w.back(0, true, &proc{up: true})
		must(w.t, err)
		w.wantTree(trees[0], when+", and again:")
	}
	if data, err := os.ReadFile(filepath.Join(w.opts.State, asideName, "back", "a.txt")); err != nil || string(data) != "by hand" {
		w.t.Errorf("%s: the file made by hand: %q, %v", when, data, err)
	}
}

// Without one of the builds between there is no way back.
func TestNoWayBackOverAGap(t *testing.T) {
	w := newWorld(t, oldTree)
	w.patched(changes(t)[:2]...)
	w.build = 7 // as when agent.toml was changed by hand
	if _, err := w.back(0, true, &proc{up: true}); !errors.Is(err, ErrNoBuild) {
		t.Errorf("another build is installed: %v", err)
	}
	w.build = 2
	w.a.Configure(nil, nil, 0)
	pkg := pack(t, true, mod("a.txt", "not kept"))
	plan, err := w.a.Plan(t.Context(), pkg)
	must(t, err)
	tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "x", Build: 3, FromBuild: 2})
	must(t, err)
	must(t, tx.Commit())
	must(t, tx.Close())
	w.build = 3
	if _, err := w.back(0, true, &proc{up: true}); !errors.Is(err, ErrNoBuild) {
		t.Errorf("after a patch that was not kept: %v", err)
	}
}

// What was a file in one build and a folder in another is gone back over in steps.
func TestFileThatBecameAFolder(t *testing.T) {
	w := newWorld(t, map[string]string{"x": "file"})
	trees := w.patched(pack(t, true, del("x")), pack(t, true, add("x/y", "y")))
	if _, err := w.back(0, false, &proc{up: true}); err == nil || !strings.Contains(err.Error(), "go back one build at a time") {
		t.Errorf("%v", err)
	}
	w.wantTree(trees[2], "after the refusal")
	for to := 1; to >= 0; to-- {
		_, err := w.back(int64(to), false, &proc{up: true})
		must(t, err)
		w.wantTree(trees[to], fmt.Sprint("back to ", to))
	}
}

// A folder in the place of a file is work by hand too.
func TestBackOverFolderMadeByHand(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		w := newWorld(t, oldTree)
		w.a.exchange = exchange
		trees := w.patched(pack(t, true, add("new", "n")))
		must(t, os.Remove(filepath.Join(w.root, "new")))
		w.lay(map[string]string{"new/own": "precious"})
		if _, err := w.back(0, false, &proc{up: true}); err == nil || !strings.Contains(err.Error(), "new has been changed") {
			t.Errorf("%v", err)
		}
		_, err := w.back(0, true, &proc{up: true})
		must(t, err)
		w.wantTree(trees[0], "forced")
		if data, err := os.ReadFile(filepath.Join(w.opts.State, asideName, "back", "new", "own")); err != nil || string(data) != "precious" {
			t.Errorf("aside: %q, %v", data, err)
		}
	})
}

// A journal of another tree is not gone on with, nor are its builds gone back to.
func TestAnotherRoot(t *testing.T) {
	w := newWorld(t, oldTree)
	w.patched(changes(t)[0])
	pkg := changes(t)[1]
	plan, err := w.a.Plan(t.Context(), pkg)
	must(t, err)
	_, err = w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1"})
	must(t, err)
	w.a.Close()
	moved := filepath.Join(filepath.Dir(w.root), "moved")
	must(t, os.Rename(w.root, moved))
	w.root = filepath.Join(filepath.Dir(w.root), "another")
	w.opts.Root = w.root
	w.lay(oldTree)
	w.open()
	if _, err := w.a.Recover(t.Context(), &proc{}); err == nil || !strings.Contains(err.Error(), "target.root is") {
		t.Errorf("%v", err)
	}
	if builds, err := w.a.Builds(); err != nil || len(builds) > 0 {
		t.Errorf("%v, %v", builds, err)
	}
	w.a.Close()
	w.root, w.opts.Root = moved, moved // the same tree under another name
	w.open()
	w.settle("the tree that was moved")
	if builds, err := w.a.Builds(); err != nil || len(builds) != 1 {
		t.Errorf("%v, %v", builds, err)
	}
}
