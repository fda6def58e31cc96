package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/applier/journal"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// maxAttempts is how often a patch is tried that the agent's own end interrupts
// before the commit: once, and twice more.
const maxAttempts = 3

// recovered goes on with the transaction that an earlier run of the agent left,
// after applier.Recover has made the tree one build again. claim is nil for a
// rollback by hand, and where it is gone. taken says that the claim has its outcome,
// or will have it after its probation; otherwise it is to be tried again.
func (a *agent) recovered(ctx context.Context, tx *applier.Tx, claim *watcher.Claim) (taken bool, err error) {
	t := &trial{claim: claim, tx: tx, receipt: a.receiptOfTx(tx, claim), began: tx.Plan().Started}
	a.publish(&work{Patch: t.receipt.Patch, Build: tx.Plan().Build, Since: t.began, id: tx.Plan().ID})
	log := a.log.With("patch", tx.Plan().Patch, "id", tx.Plan().ID)
	switch tx.State() {
	case journal.Committed:
		if a.alone != nil && !tx.Plan().Back() && len(tx.Plan().Steps) > 0 { // nothing is run once more for what is undone next
			t.cancel = func() {}
			a.trial = t
			return true, nil
		}
		if n := tx.Interrupted(); n > maxConfirms {
			a.conclude(t, tx.RollBack(ctx, a.process, reason.Errorf(reason.Interrupted,
				"the agent was interrupted %d times while it confirmed the new files", n)))
			return true, nil
		}
		log.Info("the agent was interrupted after the new files were in place, going on from there")
		result, err := a.confirm(ctx, tx)
		if err != nil {
			a.leftTx(tx)
			return false, err
		}
		if result.Outcome == reason.Applied && len(tx.Plan().Steps) > 0 {
			a.confirmed(ctx, t)
		} else {
			a.conclude(t, result)
		}
		return true, nil
	case journal.Undone:
		tx.Return(ctx, a.process)
		if ctx.Err() != nil {
			a.leftTx(tx)
			return false, context.Cause(ctx)
		}
		a.conclude(t, tx.Undone())
		return true, nil
	default:
		return a.interrupted(ctx, t)
	}
}

// confirm is for a transaction whose new files are in place. A process that an earlier
// agent has started on them, and that is taken over, has to be ready as one that is
// started now.
func (a *agent) confirm(ctx context.Context, tx *applier.Tx) (applier.Result, error) {
	err := a.process.cameUp(ctx, eventOf(tx, applier.EventStart, a.cfg.Target.Root))
	if ctx.Err() != nil {
		tx.Pause()
		return applier.Result{}, context.Cause(ctx)
	}
	if cause, is := errors.AsType[*reason.Error](err); is {
		return tx.RollBack(ctx, a.process, cause), nil
	}
	return tx.Apply(ctx, a.process)
}

// decided ends a transaction that has its receipt. One that could not be undone is
// undone now, and the process comes back to the old files.
func (a *agent) decided(ctx context.Context, tx *applier.Tx, r record.Receipt) error {
	if r.Outcome != reason.Failed {
		return tx.Close()
	}
	if tx.State() == journal.Committed {
		result := tx.RollBack(ctx, a.process, reason.Errorf(reason.RollbackFailed, "it could not be undone before"))
		if result.Outcome == reason.Failed {
			return fmt.Errorf("%s; mend that and start the agent again", result.Detail)
		}
	} else {
		tx.Return(ctx, a.process)
	}
	a.log.Info("the patch that could not be undone is undone now", "patch", r.Patch, "id", r.ID, "build", tx.Plan().FromBuild)
	a.ended = &r
	return tx.Close()
}

// interrupted is for a transaction that was undone, or had touched nothing, because the
// agent ended before its commit. A rollback by hand is left to whoever asked for it.
func (a *agent) interrupted(ctx context.Context, t *trial) (taken bool, err error) {
	often := 1
	if t.claim != nil {
		t.claim.Attempts++
		often = t.claim.Attempts
	}
	// If nothing was touched only the first hook can have run, and it runs again if the patch
	// begins anew.
	unwanted := a.alone != nil && !t.tx.Plan().Back() && a.leadsTo(a.alone.To, t.tx.Plan().FromBuild)
	giveUp := t.tx.Plan().Back() || often >= maxAttempts || unwanted
	if t.tx.Untouched() && !giveUp {
		t.tx.Resume(ctx, a.process)
	} else {
		t.tx.Return(ctx, a.process)
	}
	when := "while it put the new files into place; they were taken out again"
	if t.tx.Untouched() {
		when = "before it touched a file"
	}
	if unwanted {
		a.conclude(t, applier.Result{Outcome: reason.RolledBack, Code: reason.Requested,
			Detail: askedFor + "; the agent had been interrupted " + when})
		return true, nil
	}
	if giveUp {
		a.conclude(t, applier.Result{Outcome: reason.RolledBack, Code: reason.Interrupted,
			Detail: fmt.Sprintf("the agent was interrupted %d times, at last %s", often, when)})
		return true, nil
	}
	if t.claim == nil {
		return false, t.tx.Close() // its drop is claimed again, if it is still there
	}
	a.log.Warn("the agent was interrupted "+when+", and the patch begins anew", "patch", t.claim.Name, "attempt", often)
	if err := t.claim.Save(true); err != nil {
		return false, err
	}
	return false, t.tx.Close()
}

// receiptOfTx begins the receipt of a transaction that was found in the journal.
func (a *agent) receiptOfTx(tx *applier.Tx, claim *watcher.Claim) record.Receipt {
	plan := tx.Plan()
	r := record.Receipt{ID: plan.ID, Patch: plan.Patch}
	if claim != nil {
		r = receiptOf(claim, checked{}, 0, time.Now())
	}
	r.KeyID, r.FromBuild, r.Build, r.Strategy = plan.KeyID, plan.FromBuild, &plan.Build, applier.StrategyName(plan.Warm)
	r.Region, r.Product = a.installed.Region, a.installed.Product
	return r
}
