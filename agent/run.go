package main

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
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
	manager   manager
	installed record.Installed
	receipts  *record.Receipts
	clock     *record.Clock

	queue    []*patch          // verified, waiting for their turn
	unread   []*unread         // claimed, to be tried again
	endings  []*ending         // decided, not yet wholly put away
	waiting  map[string]string // file name → why it waits, as it was last logged
	crowds   map[string]int    // why many wait → how many that were when it was last logged
	ignored  map[string]string // entry of the folder that is no drop → why, as it was last logged
	pace     pace              // of the scans
	trial    *trial            // the patch on probation
	question *question         // to the gate, that is out
	arrived  time.Time         // the newest in the queue
	later    time.Time         // when the next patch may be tried again
	held     bool              // HOLD is in the folder
	failed   bool              // a rollback failed: nothing more is applied
	fatal    error             // the agent cannot go on, and leaves the rest to the next one
	trouble  string            // with the folder, as it was last logged
	unusable string            // why keys cannot be used, as it was last logged
	keysSeen time.Time         // when that was last looked at

	snapshot atomic.Pointer[status] // for whoever asks how things are
	steps    steps                  // of the patch under way
	began    time.Time              // this agent
	watching bool                   // what an earlier one has left is dealt with
	found    watcher.Found          // by the last scan
	last     *record.Receipt        // the newest
	kept     []applier.Build        // that can be returned to, without their plans
	begun    string                 // ID of what the agent is at, or was at last
	ended    *record.Receipt        // of that, or of the one before if it has none yet
	alone    *rollback              // what a command asks for that works without an agent; nil: this is one
	asked    func() bool            // somebody waits for the loop; nil: nobody can

	pruning  bool   // patch/rejected may hold more than it should
	unpruned string // why it could not be pruned, as it was last logged
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
			a.carry(ctx, r, reread)
			continue
		default:
		}
		if !a.sleep(ctx, w, timer.C, reread) {
			return
		}
	}
}

// sleep returns when something has happened; false when ctx is done. After a scan
// events of the folder have to wait a little.
func (a *agent) sleep(ctx context.Context, w wakes, timer <-chan time.Time, reread func(hangup bool)) bool {
	folder, rested := w.folder, (<-chan time.Time)(nil)
	if a.pace.rest > 0 {
		folder, rested = nil, time.After(a.pace.rest)
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-rested:
			folder, rested = w.folder, nil
			continue
		case <-folder:
		case <-w.process:
		case verdict := <-a.onTrial():
			a.judge(ctx, verdict)
		case said := <-a.onAnswer():
			a.answered(ctx, said)
		case r := <-w.asked:
			a.carry(ctx, r, reread)
		case <-w.config:
			reread(false)
		case <-w.hangup:
			reread(true)
		case <-timer:
		}
		return true
	}
}

// step takes in what is in the folder and gives the next patch its turn. It returns
// after how long it must run again, whatever happens.
func (a *agent) step(ctx context.Context) time.Duration {
	if a.clock.Due(clockEvery) {
		a.saveClock()
	}
	a.noteKeys(time.Now())
	a.manager.note(a.installed.Build)
	defer a.publish(nil)
	again := a.collect(ctx)
	a.unwait()
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
	a.unread = slices.DeleteFunc(a.unread, func(u *unread) bool { return a.read(ctx, u) })
	began := time.Now()
	found, err := a.folder.Scan(ctx)
	a.pace.scanned(began, time.Since(began), len(found.Claims) > 0)
	if err != nil {
		if a.trouble != err.Error() {
			a.log.Error("nothing can be taken in", "error", err)
		}
		a.trouble = err.Error()
		return time.Duration(a.cfg.Patch.Poll)
	}
	a.trouble = ""
	a.noteFound(found)
	before := len(a.queue)
	for _, claim := range found.Claims {
		a.receive(ctx, claim)
	}
	if len(a.queue) > before { // what is refused is no arrival, or junk could keep the queue waiting
		a.arrived = time.Now()
	}
	a.noteQueue()
	a.prune()
	again := time.Duration(a.cfg.Patch.Poll)
	if found.Again > 0 {
		again = min(again, found.Again)
	}
	if found.Full && len(found.Claims)+len(found.Gone) > 0 {
		again = 0 // what was refused or withdrawn just now has made room
	}
	return max(again, a.pace.rest)
}

// nothing is after how long something is to be done if there is nothing to be done.
const nothing = time.Duration(1<<63 - 1)

// head returns the patch whose turn it is if the gate has nothing against it, or nil
// and when to ask again.
func (a *agent) head(now time.Time) (*patch, time.Duration) {
	if len(a.queue) == 0 || a.failed || a.held || a.trial != nil || a.unrecorded() || !a.process.settled() {
		return nil, nothing
	}
	if left := max(a.unreadFor(now), a.later.Sub(now)); left > 0 {
		return nil, left
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

// turn is a patch from the queue to its outcome, to its probation, or to the question
// to the gate.
func (a *agent) turn(ctx context.Context, p *patch) {
	began := time.Now()
	defer p.rest()
	gate := a.gate()
	var plan *applier.Plan
	var err error
	switch {
	case !gate.Set():
		plan, err = a.plan(ctx, p, &present{build: a.installed.Build})
	case !p.talk.begun():
		plan, err = a.plan(ctx, p, nil)
	default:
		err = a.admissible(p, nil) // the tree is looked at again when the gate has said go
	}
	if !a.passed(ctx, p, supervisor.Answer{}, err, began) {
		return
	}
	if a.cfg.Patch.Mode == config.ModeManual {
		p.noticed = "manual"
		a.noteWaiting(p.claim.Name, "manual", "patch.mode is manual; set it to auto to let it go")
		return
	}
	if gate.Set() {
		a.ask(ctx, p, gate)
		return
	}
	a.carryOut(ctx, p, plan, supervisor.Answer{}, began)
}

// passed says whether a patch has passed the checks of which err is the outcome; if
// not, it has its own outcome, or waits.
func (a *agent) passed(ctx context.Context, p *patch, said supervisor.Answer, err error, began time.Time) bool {
	switch {
	case ctx.Err() != nil:
		a.left(p.claim.Name, "nothing of it was begun")
		return false
	case noDescriptor(err):
		a.later = began.Add(time.Duration(a.cfg.Patch.Poll))
		a.noteWaiting(p.claim.Name, "descriptors", err.Error())
		return false
	case err != nil:
		a.finish(p, nil, withMessage(refuse(a.receiptOf(p, said, began), err), said))
		return false
	}
	return true
}

// carryOut applies a patch, when all has been looked at and asked; said is what the gate
// has said.
func (a *agent) carryOut(ctx context.Context, p *patch, plan *applier.Plan, said supervisor.Answer, began time.Time) {
	noteAll(a.log.Info, "about the tree", p.claim.Name, plan.Notes)
	if len(plan.Changes) == 0 && p.manifest().Build == a.installed.Build {
		done := a.receiptOf(p, said, began)
		done.Outcome, done.Detail = reason.Applied, nothingToChange
		a.finish(p, nil, withMessage(done, said))
		return
	}
	if !a.passed(ctx, p, said, a.startable(plan, p.manifest().Warm), began) {
		return
	}
	a.publish(&work{Patch: p.claim.Name, Build: p.manifest().Build, Since: began, id: p.claim.ID})
	if a.isAsked() {
		a.begun = ""
		return // he has not seen this patch under way, so he does not mean it: he comes first
	}
	tx, err := a.applier.Stage(ctx, p.pkg, plan, a.patchOf(ctx, p, plan, said))
	if !a.passed(ctx, p, said, err, began) {
		return
	}
	a.log.Info("patch begins", "patch", p.claim.Name, "id", p.claim.ID, "build", p.manifest().Build, "from_build", a.from(said),
		"strategy", applier.StrategyName(p.manifest().Warm))
	result, err := tx.Apply(ctx, a.process)
	if err != nil {
		a.leftTx(tx) // the agent is ending; the next one goes on from the journal
		return
	}
	t := &trial{claim: p.claim, patch: p, tx: tx, receipt: a.receiptOf(p, said, began), began: began}
	if result.Outcome == reason.Applied && len(plan.Changes) > 0 {
		a.confirmed(ctx, t)
		return
	}
	a.conclude(t, result)
	a.keepUp()
}

// notBegun begins the detail of a patch that would have stopped a process which could
// not be started again.
const notBegun = "not begun, process and tree are as they were: the process could not be started again: "

// startable looks, before a process is stopped for a plan, whether it could be started
// after it.
func (a *agent) startable(plan *applier.Plan, warm bool) error {
	if warm || a.process.absent || len(plan.Changes) == 0 {
		return nil
	}
	places := make([]string, len(plan.Changes))
	for i, c := range plan.Changes {
		places[i] = c.Path
	}
	if err := a.cfg.Target.CheckStart(places); err != nil {
		return reason.Errorf(reason.StartFailed, notBegun+"%w", err)
	}
	return nil
}

// nothingToChange is the detail of a patch that leaves the process alone.
const nothingToChange = "every file is already as the package wants it"

// keepUp has the process started that a rolled back patch could not bring back. A
// service of another manager that could not be stopped may be down only later.
func (a *agent) keepUp() {
	if s := a.process.Status(); !a.failed && (s.External || s.State == supervisor.Stopped) {
		a.process.Resume()
	}
}

// plan makes the checks that depend on what holds now: the keys, build, required
// build and expiry, then protected paths, the tree, and the space on the disk. to is
// the build that is installed; nil if the gate is yet to be asked for it.
func (a *agent) plan(ctx context.Context, p *patch, to *present) (*applier.Plan, error) {
	if err := a.admissible(p, to); err != nil {
		return nil, err
	}
	if err := p.open(a.cfg); err != nil {
		return nil, err
	}
	plan, err := a.applier.Plan(ctx, p.pkg)
	if err != nil {
		return nil, err
	}
	return plan, a.applier.Space(plan, spaceReserve)
}

// admissible makes those of the checks that need no look at the tree.
func (a *agent) admissible(p *patch, to *present) error {
	m := p.manifest()
	if err := trusted(p.signer, a.cfg); err != nil {
		return err
	}
	if !m.Expires.IsZero() {
		a.saveClock() // what has expired once must not come back
	}
	if err := belongs(m, a.installed); err != nil {
		return err
	}
	if to != nil {
		if err := follows(m, *to); err != nil {
			return err
		}
	}
	return fresh(m, a.clock)
}

// spaceReserve is what a patch must leave free on the disk: room for receipts, the
// journal and a log file, so that the outcome can be written down.
const spaceReserve = 8 << 20

// patchOf says what is to be on record of a patch; for that the process is asked
// whether it was well before.
func (a *agent) patchOf(ctx context.Context, p *patch, plan *applier.Plan, said supervisor.Answer) applier.Patch {
	m := p.manifest()
	to := applier.Patch{ID: p.claim.ID, Name: p.claim.Name, KeyID: p.signer.KeyID, Warm: m.Warm, Build: m.Build, FromBuild: a.from(said), Note: quoted(said)}
	if len(plan.Changes) == 0 || !a.cfg.Target.Health.Set {
		return to
	}
	if err := a.process.Sick(ctx); err != nil && ctx.Err() == nil {
		to.Sick, to.Note = true, also(to.Note, reason.Line("the process was not healthy before the patch: "+err.Error()))
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
	if counts := tx.Plan().Counts; result.Outcome != reason.Rejected { // that changed nothing
		r.Created, r.Modified, r.Deleted, r.Bytes = counts.Created, counts.Modified, counts.Deleted, counts.Bytes
	}
	r.Outcome, r.Reason, r.Detail = result.Outcome, result.Code, result.Detail
	switch note := tx.Plan().Note; {
	case result.Outcome == reason.Applied && len(tx.Plan().Steps) == 0:
		r.Detail = also(nothingToChange, note)
	case result.Outcome != reason.Applied && !tx.Plan().Back():
		r.Detail = also(r.Detail, note)
	}
	if result.Output != "" {
		r.Detail += lastPrinted + result.Output
	}
	r.DowntimeMS = result.Downtime.Milliseconds()
	return r
}
