package main

import (
	"cmp"
	"context"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/manifest"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// agent is the state of a running agent. All of it belongs to the goroutine that
// runs loop; what runs beside it (start.go) only wakes it.
type agent struct {
	cfg       *config.Config
	log       hclog.Logger
	folder    *watcher.Folder
	applier   *applier.Applier
	fault     func(step string) error // for tests; see applier.Options
	process   process
	installed record.Installed
	receipts  *record.Receipts
	clock     *record.Clock

	queue   []*patch          // verified, waiting for their turn
	endings []*ending         // decided, not yet wholly put away
	waiting map[string]string // file name → why it waits, as it was last logged
	trial   *trial            // the patch on probation
	arrived time.Time         // the newest drop
	held    bool              // HOLD is in the folder
	failed  bool              // a rollback failed: nothing more is applied
	fatal   error             // the agent cannot go on, and leaves the rest to the next one
	trouble string            // with the folder, as it was last logged
}

// wakes are the things that the loop sleeps for, beside its timer.
type wakes struct {
	folder  <-chan struct{} // something may have happened in the patch folder
	process <-chan struct{} // the process changed its state
	config  <-chan struct{} // agent.toml may have changed
	hangup  <-chan os.Signal
	asked   <-chan request // what an operator asks for by a command
}

// loop does what can be done, sleeps until something happens, and begins again;
// until ctx is done, or it cannot go on.
func (a *agent) loop(ctx context.Context, w wakes, reread func(hangup bool)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for a.fatal == nil {
		timer.Reset(a.step(ctx))
		if a.fatal != nil {
			return
		}
		select { // what an operator asks for comes before the next patch
		case r := <-w.asked:
			r.answer <- a.rollBack(ctx, r.ask)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-w.folder:
		case <-w.process:
		case verdict := <-a.onTrial():
			a.judge(ctx, verdict)
		case r := <-w.asked:
			r.answer <- a.rollBack(ctx, r.ask)
		case <-w.config:
			reread(false)
		case <-w.hangup:
			reread(true)
		case <-timer.C:
		}
	}
}

// step takes in what is in the folder and gives the next patch its turn. It returns
// after how long it must run again, whatever happens.
func (a *agent) step(ctx context.Context) time.Duration {
	if a.clock.Due(clockEvery) {
		a.saveClock()
	}
	again := a.collect(ctx)
	p, wait := a.next(time.Now())
	if p == nil || ctx.Err() != nil {
		return min(again, wait)
	}
	a.turn(ctx, p)
	return 0
}

// clockEvery bounds how much time a power loss can take from the clock.
const clockEvery = time.Hour

// saveClock is no matter of life and death: it is tried again.
func (a *agent) saveClock() {
	if err := a.clock.Save(); err != nil {
		a.log.Warn("the time cannot be put on record; after a power loss the clock may go back", "error", err)
	}
}

// collect finishes what is still to be put away, then claims and verifies what is
// whole in the folder. What passes joins the queue; the rest is refused.
func (a *agent) collect(ctx context.Context) time.Duration {
	a.endings = slices.DeleteFunc(a.endings, a.tryEnding)
	found, err := a.folder.Scan(ctx)
	if err != nil {
		if a.trouble != err.Error() {
			a.log.Error("nothing can be taken in", "error", err)
		}
		a.trouble = err.Error()
		return time.Duration(a.cfg.Patch.Poll)
	}
	a.trouble = ""
	a.noteFound(found)
	for _, claim := range found.Claims {
		a.arrived = time.Now()
		a.receive(ctx, claim)
	}
	a.noteQueue()
	if found.Again > 0 {
		return min(found.Again, time.Duration(a.cfg.Patch.Poll))
	}
	return time.Duration(a.cfg.Patch.Poll)
}

// receive verifies a claim and puts it into the queue, or refuses it.
func (a *agent) receive(ctx context.Context, claim *watcher.Claim) {
	began := time.Now()
	if claim.Reject != nil {
		a.end(claim, nil, refuse(receiptOf(claim, checked{}, a.installed.Build, began), claim.Reject))
		return
	}
	f, err := claim.Open()
	if err != nil {
		a.end(claim, nil, refuse(receiptOf(claim, checked{}, a.installed.Build, began), err))
		return
	}
	known, err := verify(ctx, f, claim.Name, sumsOf(claim), manifest.Sidecars(claim.Sidecars), a.cfg, a.installed)
	switch {
	case ctx.Err() != nil:
		_ = f.Close() // the claim is found again at the next start
	case err != nil:
		_ = f.Close()
		a.end(claim, nil, refuse(receiptOf(claim, known, a.installed.Build, began), err))
	default:
		for _, note := range known.pkg.Notes {
			a.log.Warn("about the package", "patch", claim.Name, "note", note)
		}
		a.queue = append(a.queue, &patch{claim: claim, file: f, checked: known})
		slices.SortStableFunc(a.queue, func(x, y *patch) int { return cmp.Compare(x.manifest().Build, y.manifest().Build) })
	}
}

// next returns the patch whose turn it is, or nil and when to ask again.
func (a *agent) next(now time.Time) (*patch, time.Duration) {
	const nothing = time.Duration(1<<63 - 1)
	if len(a.queue) == 0 || a.failed || a.held || a.trial != nil || a.unrecorded() || !a.process.settled() {
		return nil, nothing
	}
	if left := a.arrived.Add(time.Duration(a.cfg.Patch.Settle)).Sub(now); left > 0 {
		return nil, left
	}
	for _, p := range a.queue {
		if a.cfg.Patch.Mode == config.ModeAuto || p.noticed == "" {
			return p, 0
		}
	}
	return nil, nothing
}

// unrecorded says whether what the next patch depends on is not durable yet.
func (a *agent) unrecorded() bool {
	return slices.ContainsFunc(a.endings, func(e *ending) bool { return !e.recorded })
}

// turn is a patch from the queue to its outcome, or to its probation.
func (a *agent) turn(ctx context.Context, p *patch) {
	began := time.Now()
	receipt := func() record.Receipt { return receiptOf(p.claim, p.checked, a.installed.Build, began) }

	plan, err := a.plan(ctx, p)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.finish(p, nil, refuse(receipt(), err))
		return
	}
	if a.cfg.Patch.Mode == config.ModeManual {
		p.noticed = "manual"
		a.noteWaiting(p.claim.Name, "manual", "patch.mode is manual")
		return
	}
	for _, note := range plan.Notes {
		a.log.Info("about the tree", "patch", p.claim.Name, "note", note)
	}
	if len(plan.Changes) == 0 && p.manifest().Build == a.installed.Build {
		done := receipt()
		done.Outcome, done.Detail = reason.Applied, nothingToChange
		a.finish(p, nil, done)
		return
	}
	tx, err := a.applier.Stage(ctx, p.pkg, plan, a.patchOf(ctx, p, plan))
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.finish(p, nil, refuse(receipt(), err))
		return
	}
	result, err := tx.Apply(ctx, a.process)
	if err != nil {
		return // the agent is ending; the next one goes on from the journal
	}
	t := &trial{claim: p.claim, patch: p, tx: tx, receipt: receipt(), began: began}
	if result.Outcome == reason.Applied && len(plan.Changes) > 0 {
		a.confirmed(ctx, t)
		return
	}
	a.conclude(t, result)
	a.keepUp()
}

// nothingToChange is the detail of a patch that leaves the process alone.
const nothingToChange = "every file is already as the package wants it"

// keepUp has the process started that a rolled back patch could not bring back.
func (a *agent) keepUp() {
	if !a.failed && a.process.Status().State == supervisor.Stopped {
		a.process.Resume()
	}
}

// plan makes the checks that depend on what holds now: the keys, build, required
// build and expiry, then protected paths, the tree, and the space on the disk.
func (a *agent) plan(ctx context.Context, p *patch) (*applier.Plan, error) {
	if err := trusted(p.signer, a.cfg); err != nil {
		return nil, err
	}
	if !p.manifest().Expires.IsZero() {
		a.saveClock() // what has expired once must not come back
	}
	if err := admit(p.manifest(), a.installed, a.clock); err != nil {
		return nil, err
	}
	plan, err := a.applier.Plan(ctx, p.pkg)
	if err != nil {
		return nil, err
	}
	return plan, a.applier.Space(plan, spaceReserve)
}

// spaceReserve is what a patch must leave free on the disk: room for receipts, the
// journal and a log file, so that the outcome can be written down.
const spaceReserve = 8 << 20

// patchOf says what is to be on record of a patch; for that the process is asked
// whether it was well before.
func (a *agent) patchOf(ctx context.Context, p *patch, plan *applier.Plan) applier.Patch {
	m := p.manifest()
	to := applier.Patch{ID: p.claim.ID, Name: p.claim.Name, KeyID: p.signer.KeyID, Warm: m.Warm, Build: m.Build, FromBuild: a.installed.Build}
	if len(plan.Changes) == 0 || !a.cfg.Target.Health.Set {
		return to
	}
	if err := a.process.Sick(ctx); err != nil && ctx.Err() == nil {
		to.Sick, to.Note = true, reason.Line("the process was not healthy before the patch: "+err.Error())
		a.log.Warn("the process is not healthy, before the patch already", "patch", p.claim.Name, "error", err)
	}
	return to
}

// finish takes a patch out of the queue and ends it.
func (a *agent) finish(p *patch, tx *applier.Tx, r record.Receipt) {
	a.dequeue(p)
	a.end(p.claim, tx, r)
}

func (a *agent) dequeue(p *patch) {
	p.close()
	a.queue = slices.DeleteFunc(a.queue, func(q *patch) bool { return q == p })
}

// withResult completes a receipt with how the transaction ended.
func withResult(r record.Receipt, tx *applier.Tx, result applier.Result) record.Receipt {
	counts := tx.Plan().Counts
	r.Created, r.Modified, r.Deleted, r.Bytes = counts.Created, counts.Modified, counts.Deleted, counts.Bytes
	r.Outcome, r.Reason, r.Detail = result.Outcome, result.Code, result.Detail
	if result.Outcome == reason.Applied && len(tx.Plan().Steps) == 0 {
		r.Detail = nothingToChange
	}
	if result.Output != "" {
		r.Detail += "\nthe last that the process printed:\n" + result.Output
	}
	r.DowntimeMS = result.Downtime.Milliseconds()
	return r
}

// noteWaiting logs that a drop waits, once for each reason.
func (a *agent) noteWaiting(name, why, detail string) {
	if a.waiting[name] == why {
		return
	}
	a.waiting[name] = why
	a.log.Info("patch waiting", "patch", name, "reason", why, "detail", detail)
}

// noteQueue logs why what is verified has not its turn.
func (a *agent) noteQueue() {
	for _, p := range a.queue {
		switch {
		case a.failed:
			a.noteWaiting(p.claim.Name, "failed", "a patch could not be undone, and nothing is applied until that is mended and the agent started again")
		case a.trial != nil && a.trial.patch != p:
			a.noteWaiting(p.claim.Name, "probation", a.trial.receipt.Patch+" is on probation")
		}
	}
}

// noteFound logs what of the folder's state is news.
func (a *agent) noteFound(found watcher.Found) {
	a.held = found.Hold
	waits := map[string]bool{}
	for _, w := range found.Waiting {
		waits[w.Name] = true
	}
	for _, p := range a.queue {
		waits[p.claim.Name] = true
	}
	for _, name := range found.Held {
		waits[name] = true
	}
	maps.DeleteFunc(a.waiting, func(name, _ string) bool { return !waits[name] })
	for _, name := range found.Held {
		a.noteWaiting(name, "hold", "the file HOLD is in the patch folder")
	}
	for _, w := range found.Waiting {
		a.noteWaiting(w.Name, "not whole", w.Why)
	}
	for _, claim := range found.Gone {
		if a.trial != nil && a.trial.claim == claim || slices.ContainsFunc(a.endings, func(e *ending) bool { return e.claim == claim }) {
			continue // in place already, or decided and still to be put away
		}
		delete(a.waiting, claim.Name)
		a.log.Info("patch withdrawn", "patch", claim.Name, "id", claim.ID, "detail", "its file was removed from the patch folder before its turn")
		a.queue = slices.DeleteFunc(a.queue, func(p *patch) bool {
			if p.claim.ID != claim.ID {
				return false
			}
			p.close()
			return true
		})
		if err := a.folder.Release(claim); err != nil {
			a.log.Warn("cannot remove the copy of a withdrawn patch", "patch", claim.Name, "error", err)
		}
	}
}
