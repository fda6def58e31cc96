package main

import (
	"context"
	"sync"
	"time"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/applier/journal"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// maxConfirms is how many agents may be interrupted while they confirm a committed
// patch before it is taken back: it may be what ends them, or the machine.
const maxConfirms = 5

// A trial is a patch that is committed, and whose process is on probation. The loop
// goes on meanwhile; only other patches wait.
type trial struct {
	claim   *watcher.Claim
	patch   *patch // its place in the queue; nil if an earlier agent began it
	tx      *applier.Tx
	receipt record.Receipt
	began   time.Time

	verdict chan error // nil: it stood the test
	cancel  context.CancelFunc
	watch   sync.WaitGroup
}

// confirmed ends a transaction whose new files are in place and whose process is up,
// or puts the process on probation first.
func (a *agent) confirmed(ctx context.Context, t *trial) {
	if !a.cfg.Target.Health.Set {
		a.conclude(t, t.tx.Done())
		return
	}
	ctx, t.cancel = context.WithCancel(ctx)
	t.verdict = make(chan error, 1)
	plan := t.tx.Plan()
	event := eventOf(t.tx, eventHealth, a.cfg.Target.Root)
	a.log.Info("patch on probation", "patch", plan.Patch, "build", plan.Build, "window", a.cfg.Target.Health.Window.String())
	a.trial = t
	t.watch.Go(func() { t.verdict <- a.process.Watch(ctx, event.Env(), plan.Sick) })
}

// eventOf is an event of a transaction, for a command.
func eventOf(tx *applier.Tx, name, root string) applier.Event {
	plan := tx.Plan()
	return applier.Event{Name: name, Patch: plan.Patch, Build: plan.Build, FromBuild: plan.FromBuild,
		Strategy: applier.StrategyName(plan.Warm), Root: root}
}

// eventHealth is PATCHAGENT_EVENT of the health command.
const eventHealth = "health"

// onTrial is the verdict that the loop waits for, if any.
func (a *agent) onTrial() <-chan error {
	if a.trial == nil {
		return nil
	}
	return a.trial.verdict
}

// judge carries the verdict out.
func (a *agent) judge(ctx context.Context, verdict error) {
	if ctx.Err() != nil {
		return // leave ends the trial
	}
	if verdict != nil {
		cause := reason.Errorf(reason.Unhealthy, "%w", verdict)
		addLast(cause, a.process.Tail())
		a.condemn(ctx, cause)
		return
	}
	t := a.endTrial()
	a.process.Resume() // should it end now, that is not the patch's doing
	a.conclude(t, t.tx.Done())
}

// condemn rolls the patch on probation back.
func (a *agent) condemn(ctx context.Context, cause *reason.Error) record.Receipt {
	t := a.endTrial()
	plan := t.tx.Plan()
	a.publish(&work{Patch: plan.Patch, Build: plan.Build, Since: t.began, id: plan.ID})
	r := a.conclude(t, t.tx.RollBack(ctx, a.process, cause))
	a.keepUp()
	return r
}

// endTrial takes the trial from the agent when nobody asks the process any more.
func (a *agent) endTrial() *trial {
	t := a.trial
	a.trial = nil
	t.cancel()
	t.watch.Wait()
	return t
}

// leave is for an agent that ends while the gate is asked, or while a patch is on
// probation: the next one asks again, or goes on from the journal.
func (a *agent) leave() {
	if q := a.question; q != nil {
		a.leftAsked(q)
		q.takeBack()
		q.asking.Wait()
	}
	if a.trial != nil {
		t := a.endTrial()
		t.tx.Pause()
		if t.verdict == nil { // a command does not confirm it
			a.leftTx(t.tx)
		} else {
			a.left(t.tx.Name(), "it is on probation, which begins anew")
		}
	}
}

// left says that the agent ends in the middle of a patch.
func (a *agent) left(patch, detail string) {
	a.log.Info("patch is left to the next start", "patch", patch, "detail", detail)
}

// leftAsked is left for a patch that waits for the gate's answer, if it still does.
func (a *agent) leftAsked(q *question) {
	if !q.moot {
		a.left(q.patch.claim.Name, "the gate was being asked, and is asked again")
	}
}

// leftTx is left for a transaction.
func (a *agent) leftTx(tx *applier.Tx) {
	detail := "its new files are not in place"
	switch tx.State() {
	case journal.Committed:
		detail = "its new files are in place, and it goes on from there"
	case journal.Undone:
		detail = "it is undone, and its outcome is still to be written down"
	}
	a.left(tx.Name(), detail)
}

// conclude gives a transaction its outcome.
func (a *agent) conclude(t *trial, result applier.Result) record.Receipt {
	t.receipt.TookMS = time.Since(t.began).Milliseconds()
	if t.patch != nil {
		a.dequeue(t.patch)
	}
	return a.end(t.claim, t.tx, withResult(t.receipt, t.tx, result))
}
