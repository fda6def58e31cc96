package applier

import (
	"context"
	"fmt"
	"testing"

	"patchagent/applier/journal"
	"patchagent/manifest"
	"patchagent/manifest/reason"
)

// BenchmarkTransaction says what each part of a patch costs that replaces so many
// files of 1 KiB, on the filesystem of the temporary folder, everything durable:
//
//	plan      compare with the tree
//	stage     that, then write, sync, journal
//	commit    the renames, sync, journal
//	rollback  of a committed patch: journal, the renames back, sync, journal; tidy up
//	recover   of one that was interrupted when all its renames were made
//	back      plan, stage and commit a rollback by hand
func BenchmarkTransaction(b *testing.B) {
	for _, files := range []int{10, 1_000, 10_000} {
		b.Run(fmt.Sprint(files, " files"), func(b *testing.B) {
			w, patch := manyFiles(b, files)
			b.Run("plan", func(b *testing.B) {
				for b.Loop() {
					w.planned(b, patch)
				}
			})
			b.Run("stage", func(b *testing.B) {
				for b.Loop() {
					tx := w.staged(b, patch)
					b.StopTimer()
					must(b, tx.undo())
					must(b, tx.Close())
					b.StartTimer()
				}
			})
			b.Run("commit", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					tx := w.staged(b, patch)
					b.StartTimer()
					must(b, tx.Commit())
					b.StopTimer()
					w.rollBackIn(b, tx)
					b.StartTimer()
				}
			})
			b.Run("rollback", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					tx := w.staged(b, patch)
					must(b, tx.Commit())
					b.StartTimer()
					w.rollBackIn(b, tx)
				}
			})
			b.Run("recover", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					tx := w.staged(b, patch)
					for _, s := range tx.j.Plan.Steps {
						must(b, tx.do(s))
					}
					tx.j.Close()
					b.StartTimer()
					tx, err := w.a.Recover(context.Background(), &proc{})
					must(b, err)
					b.StopTimer()
					must(b, tx.Close())
					b.StartTimer()
				}
			})
			b.Run("back", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					tx := w.staged(b, patch)
					must(b, tx.Commit())
					must(b, tx.Close())
					b.StartTimer()
					back, err := w.a.PlanBack(b.Context(), 1, nil, false)
					must(b, err)
					tx, err = w.a.Stage(b.Context(), nil, back.Plan, Patch{ID: "back"})
					must(b, err)
					must(b, tx.Commit())
					b.StopTimer()
					must(b, tx.Close())
					b.StartTimer()
				}
			})
		})
	}
}

func manyFiles(b *testing.B, files int) (*world, *manifest.Package) {
	tree := map[string]string{}
	var items []item
	for i := range files {
		name := fmt.Sprintf("d%02d/f%05d", i%20, i)
		tree[name] = fmt.Sprintf("old %01019d\n", i)
		items = append(items, mod(name, fmt.Sprintf("new %01019d\n", i)))
	}
	return newWorldIn(b, b.TempDir(), tree), pack(b, true, items...)
}

func (w *world) planned(b *testing.B, pkg *manifest.Package) *Plan {
	plan, err := w.a.Plan(b.Context(), pkg)
	must(b, err)
	return plan
}

func (w *world) staged(b *testing.B, pkg *manifest.Package) *Tx {
	tx, err := w.a.Stage(b.Context(), pkg, w.planned(b, pkg), Patch{ID: "1", Warm: true, Build: 1})
	must(b, err)
	return tx
}

func (w *world) rollBackIn(b *testing.B, tx *Tx) {
	r := tx.RollBack(b.Context(), &proc{up: true}, reason.Errorf(reason.Requested, "benchmark"))
	if r.Outcome != reason.RolledBack || tx.State() != journal.Undone {
		b.Fatalf("%+v", r)
	}
	must(b, tx.Close())
}
