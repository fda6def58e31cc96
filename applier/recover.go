package applier

import (
	"fmt"

	"patchagent/applier/journal"
)

// Recover finds the transaction that a crash, a power loss or the end of the
// agent interrupted, and makes the tree exactly one build again. It runs before
// the process is started. It returns nil where nothing was under way; else the
// State tells the caller what is left to do:
//
//	Prepared   it was undone: Close it, and the patch may be tried again
//	Undone     it was undone for the reason in Cause: record that, then Close
//	Committed  the tree is the new build: start the process, Confirm, record, Close
//
// An error means that nothing may be applied and the process must not be started
// on what may be a mixture; the journal stays, and Recover may be called again.
func (a *Applier) Recover() (*Tx, error) {
	j, err := journal.Open(a.journalPath())
	if isNotExist(err) {
		a.clean()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tx := &Tx{a: a, j: j}
	state := tx.State()
	if state == journal.Committed || state == journal.Undone {
		return tx, nil
	}
	if err := tx.undo(); err != nil {
		j.Close()
		return nil, fmt.Errorf("cannot undo the interrupted patch %s: %w; mend that and start the agent again", j.Plan.Patch, err)
	}
	if state == journal.Undoing {
		if err := tx.undone(); err != nil {
			j.Close()
			return nil, err
		}
	}
	return tx, nil
}
