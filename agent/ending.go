package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/applier/journal"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// An ending is a drop whose outcome is decided. Its steps are taken in order, and
// what fails is tried again: the installed build and the receipt are made durable,
// the transaction is closed, the drop is put away, the outcome is logged, the
// private copy is removed. After a crash the next start goes on with the step
// that is missing, and never writes a second receipt.
type ending struct {
	claim   *watcher.Claim // nil for a rollback by hand, or if the claim is gone
	tx      *applier.Tx    // nil if nothing was begun
	receipt record.Receipt

	receipted bool   // the receipt is durable
	recorded  bool   // and so is all else that the next patch depends on
	logged    bool   // the outcome's line
	place     string // where the drop is put away, once it is
	trouble   string // what was last logged about a step that failed
}

// end decides a drop, or a rollback by hand.
func (a *agent) end(claim *watcher.Claim, tx *applier.Tx, r record.Receipt) record.Receipt {
	r.Time = time.Now()
	a.lastIs(r)
	e := &ending{claim: claim, tx: tx, receipt: r}
	if !a.tryEnding(e) {
		a.endings = append(a.endings, e)
	}
	return r
}

// tryEnding takes the steps that are left and says whether that was all.
func (a *agent) tryEnding(e *ending) bool {
	err := a.settle(e)
	if err == nil {
		return true
	}
	if errors.Is(err, journal.ErrSync) {
		a.fatal = fmt.Errorf("%w; what became of %s is not said before the next start has read it from the disk: see that the disk is sound, and start the agent again", err, e.receipt.Patch)
		return false
	}
	if e.trouble != err.Error() {
		e.trouble = err.Error()
		a.log.Error("cannot finish with a patch, trying again", "patch", e.receipt.Patch, "outcome", string(e.receipt.Outcome), "error", err)
	}
	return false
}

func (a *agent) settle(e *ending) error {
	if err := a.record(e); err != nil {
		return err
	}
	placed := a.place(e)
	if errors.Is(placed, journal.ErrSync) {
		return placed
	}
	if !e.logged {
		a.logOutcome(e.receipt, e.place)
		e.logged = true
		delete(a.waiting, e.receipt.Patch)
	}
	if placed != nil || e.claim == nil {
		return placed
	}
	if err := a.reach("release"); err != nil {
		return err
	}
	return a.folder.Release(e.claim)
}

// record makes durable what the next patch depends on. Until it has, no other
// patch gets its turn.
func (a *agent) record(e *ending) error {
	if e.recorded {
		return nil
	}
	r := e.receipt
	if err := a.install(e); err != nil {
		return err
	}
	if !e.receipted {
		// A receipt must not outlive its claim, or the drop would be taken again.
		if e.claim != nil {
			if err := e.claim.Save(true); err != nil {
				return err
			}
		}
		if err := a.reach("receipt"); err != nil {
			return err
		}
		if err := a.receipts.Append(r); err != nil {
			return err
		}
		e.receipted = true
	}
	if r.Outcome == reason.Failed {
		a.failed = true // the journal stays for the next start
	} else if e.tx != nil {
		if err := e.tx.Close(); err != nil {
			return err
		}
		a.keptAfter(e.tx)
	}
	e.recorded = true
	if r.ID == a.begun {
		a.publish(nil) // whoever has seen the outcome is told so, too
	}
	return nil
}

// install puts the build on record that a transaction has left in the tree. One that
// was undone may be on record already, if the agent was killed after that.
func (a *agent) install(e *ending) error {
	if e.tx == nil || e.receipt.Outcome == reason.Failed {
		return nil
	}
	plan := e.tx.Plan()
	build := plan.Build
	if e.tx.State() != journal.Committed {
		if a.installed.Build != plan.Build {
			return nil
		}
		build = plan.FromBuild
	}
	if build == a.installed.Build {
		return nil
	}
	if err := a.reach("installed"); err != nil {
		return err
	}
	next := a.installed
	next.Build = build
	if err := next.Save(a.cfg.State.Dir); err != nil {
		return err
	}
	a.installed = next
	return nil
}

// reach is where a test can end the program.
func (a *agent) reach(step string) error {
	if a.fault == nil {
		return nil
	}
	return a.fault(step)
}

func (a *agent) place(e *ending) error {
	if e.claim == nil {
		return nil
	}
	if err := a.reach("place"); err != nil {
		return err
	}
	r := e.receipt
	to := watcher.Destination{Code: r.Reason, Sentence: readable(r.Detail), Advice: advice(r),
		Record: fmt.Sprintf("%s was dropped, and has the receipt %s of %s.", r.Patch, r.ID, r.Time.Format(time.RFC3339Nano))}
	if r.Outcome == reason.Applied {
		to = watcher.Destination{Applied: true, Build: *r.Build}
	}
	place, err := a.folder.Place(e.claim, to)
	if e.logged && e.place == "" && place != "" {
		a.log.Info("patch put away", "patch", r.Patch, "id", r.ID, "place", place) // its outcome was logged without
	}
	e.place = place
	a.pruning = a.pruning || !to.Applied
	return err
}

// advice is what the operator is to do about a drop that was not applied.
func advice(r record.Receipt) string {
	switch {
	case strings.HasPrefix(r.Detail, notBegun):
		return "Mend what is named, in agent.toml or on this machine (`patchagent check` looks at it, too), and drop the package again."
	case strings.HasPrefix(r.Detail, applier.ProcessDownBetween):
		return "The process is down, and stays so. " + r.Reason.Advice() + " Then it starts the process on the old files."
	case !strings.HasPrefix(r.Detail, applier.ProcessDown):
		return r.Reason.Advice()
	}
	return "The process is down, on the files from before the patch. First find out what keeps it from starting (`patchagent status`, `patchagent check`, its output) and mend that: " +
		"`patchagent restart`, a change of how it is started in agent.toml, a patch or a new start of the agent starts it. Then, if it was the package: " + r.Reason.Advice()
}

// logOutcome writes the one line that says how a drop ended, and where it is now, if it
// could be put away.
func (a *agent) logOutcome(r record.Receipt, place string) {
	pairs := r.Pairs()
	if place != "" {
		pairs = append(pairs, "place", place)
	}
	switch r.Outcome {
	case reason.Applied:
		a.log.Info("patch applied", pairs...)
	case reason.Rejected:
		a.log.Warn("patch rejected", pairs...)
	case reason.RolledBack:
		a.log.Error("patch rolled back", pairs...)
	default:
		a.log.Error("patch failed", pairs...)
	}
}
