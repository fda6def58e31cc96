package applier

import (
	"context"
	"fmt"
	"os"

	"patchagent/applier/journal"
)

// Recover finds the transaction that a crash, a power loss or the end of the
// agent interrupted, and makes the tree exactly one build again. A process that an
// earlier agent left must have been taken over before, and is held; one that is
// down is not started here. It returns nil where nothing was under way; else the
// State tells the caller what is left to do:
//
//	Prepared   it was undone: Return, Close, and the patch may be tried again; or it
//	           is Untouched: Resume, Close, and it is tried again, or Return, Close
//	Undone     it was undone for the reason in Cause: Return, record that, Close
//	Committed  the tree is the new build: Apply confirms it, record, Close
//
// An error means that nothing may be applied and the process must not be started
// on what may be a mixture; the journal stays, and Recover may be called again.
func (a *Applier) Recover(ctx context.Context, p Process) (*Tx, error) {
	j, err := journal.Open(a.journalPath())
	if isNotExist(err) {
		a.clean()
		a.prune()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !a.ownRoot(j.Plan) {
		j.Close()
		return nil, fmt.Errorf("cannot go on with the interrupted patch %s: it was begun in %s, and target.root is %s now; set it back, start the agent once, then change it",
			j.Plan.Patch, j.Plan.Root, a.realRoot)
	}
	tx, err := a.openTx(j)
	if err == nil {
		err = tx.recover(ctx, p)
	}
	if err != nil {
		j.Close()
		return nil, fmt.Errorf("cannot undo the interrupted patch %s: %w; mend that and start the agent again", j.Plan.Patch, err)
	}
	return tx, nil
}

func (tx *Tx) recover(ctx context.Context, p Process) error {
	tx.away(p)
	switch tx.State() {
	case journal.Undone:
		return nil
	case journal.Committed:
		return tx.attempt()
	case journal.Undoing:
		tx.log().Warn("going on undoing the patch", "reason", string(tx.j.Last.Code), "detail", tx.j.Last.Detail)
		// A cold process that was started on the new files is still on them.
		if err := tx.strategy().before(context.WithoutCancel(ctx), tx, p); err != nil {
			tx.note("%v", err)
		}
		if err := tx.undo(); err != nil {
			return err
		}
		return tx.undone()
	default:
		if err := tx.look(); err != nil {
			return err
		}
		return tx.undo()
	}
}

// Untouched says that Recover has found no step in its place, nor has an agent before:
// the tree was the old build all the time. The process may have been stopped.
func (tx *Tx) Untouched() bool { return tx.untouched }

// look finds out whether a step was done. That one was is put on record before it is
// undone, since afterwards it could not be seen any more.
func (tx *Tx) look() error {
	e := tx.j.Last
	if e.Touched {
		return nil
	}
	for _, s := range tx.j.Plan.Steps {
		done, err := tx.inPlace(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		if done {
			e.Touched = true
			return tx.enter(e)
		}
	}
	tx.untouched = true
	return nil
}

// inPlace says whether a step was done, or begun. In doubt it was.
func (tx *Tx) inPlace(s journal.Step) (bool, error) {
	there := func(_ os.FileInfo, err error) (bool, error) {
		if isNotExist(err) {
			return false, nil
		}
		return err == nil, err
	}
	switch s.Kind {
	case journal.StepMkdir:
		return there(tx.a.root.Lstat(s.Path))
	case journal.StepDelete:
		return there(os.Lstat(tx.stagePath(s.Stage)))
	case journal.StepCreate:
		staged, err := there(os.Lstat(tx.stagePath(s.Stage)))
		return !staged, err
	default:
		if second, err := there(os.Lstat(tx.stagePath(s.Stage + oldSuffix))); second || err != nil {
			return second, err
		}
		staged, err := tx.stageIs(s.New, s.Stage)
		return !staged, err
	}
}

// away goes on counting for how long the process is away. Of one that is up nobody knows
// since when.
func (tx *Tx) away(p Process) {
	last := tx.j.Last
	tx.down = last.Down
	if p.Up() || tx.j.Plan.Warm {
		return
	}
	tx.stopped = last.Stopped
	if tx.stopped.IsZero() && last.State == journal.Undoing {
		tx.stopped = last.Time // the stop comes right after it
	}
}

// attempt counts how often an agent begins to confirm the transaction.
func (tx *Tx) attempt() error {
	e := tx.j.Last
	if !e.Paused {
		e.Attempt++
	}
	e.Paused = false
	return tx.enter(e)
}

// Interrupted says how many agents have ended, other than in order, while they
// confirmed the transaction.
func (tx *Tx) Interrupted() int { return tx.j.Last.Attempt }
