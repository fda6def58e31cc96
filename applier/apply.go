package applier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// A Result is how a transaction ended. The journal is still there: when the
// result is on record, Close ends the transaction.
type Result struct {
	Outcome  reason.Outcome
	Code     reason.Code // "" if applied, requested for a rollback by hand that is done
	Detail   string
	Output   string        // the last lines that a process printed that is the reason
	Downtime time.Duration // from the stop signal until ready
}

// A strategy brings a process over to the new files, and back to the old ones.
// Its two halves are written side by side, so that a missing one is seen.
type strategy interface {
	name() string
	// do commits and confirms. After an error, undo must follow.
	do(context.Context, *Tx, Process) error
	// confirm tells the process of a tree that is already committed.
	confirm(context.Context, *Tx, Process) error
	// before makes the process ready for the old files to come back.
	before(context.Context, *Tx, Process) error
	// after tells the process that the old files are back.
	after(context.Context, *Tx, Process) error
}

func (tx *Tx) strategy() strategy {
	if tx.j.Plan.Warm {
		return warm{}
	}
	return cold{}
}

// StrategyName is how the strategy of a patch is called in receipts and logs.
func StrategyName(isWarm bool) string {
	if isWarm {
		return warm{}.name()
	}
	return cold{}.name()
}

// Apply commits the transaction and brings the process over to it; what fails is
// rolled back, or rejected if nothing was touched yet (HookBeforeStop). The only errors it returns are those that leave the decision to
// the next start: the context's end (with the journal as it then is), and none
// other.
//
// A transaction that Recover found Committed is confirmed only. One without steps is
// about the record and the kept builds: the process is left alone.
func (tx *Tx) Apply(ctx context.Context, p Process) (Result, error) {
	committed := tx.State() == journal.Committed
	var err error
	switch {
	case len(tx.j.Plan.Steps) == 0 && committed:
	case len(tx.j.Plan.Steps) == 0:
		err = tx.Commit()
	case committed:
		err = tx.strategy().confirm(ctx, tx, p)
	default:
		if err := tx.hook(ctx, p, HookBeforeStop); err != nil {
			return tx.refused(ctx, err)
		}
		err = tx.strategy().do(ctx, tx, p)
	}
	return tx.conclude(ctx, p, err)
}

func (tx *Tx) conclude(ctx context.Context, p Process, err error) (Result, error) {
	switch {
	case err == nil:
		tx.up()
		return tx.Done(), nil
	case ctx.Err() != nil && tx.State() != journal.Undoing:
		return Result{}, tx.leave(ctx)
	}
	return tx.RollBack(ctx, p, asReason(err)), nil
}

// Done is the result of a transaction that stays committed.
func (tx *Tx) Done() Result {
	r := Result{Outcome: reason.Applied, Detail: tx.j.Plan.Note, Downtime: tx.down}
	if tx.j.Plan.Back() {
		r.Outcome, r.Code = reason.RolledBack, reason.Requested
	}
	return r
}

// precheck asks the process about the files that are now in their places, before it
// is told of them.
func (tx *Tx) precheck(ctx context.Context, p Process) error {
	if err := tx.a.fault("precheck"); err != nil {
		return err
	}
	err := p.Precheck(ctx, tx.event(EventPrecheck))
	if err != nil && ctx.Err() == nil {
		tx.log().Warn("the precheck failed", "error", err)
	}
	return err
}

// start starts the process on the new files.
func (tx *Tx) start(ctx context.Context, p Process) error {
	if err := tx.precheck(ctx, p); err != nil {
		return err
	}
	if err := tx.a.fault("start"); err != nil {
		return err
	}
	return p.Start(ctx, tx.event(EventStart))
}

// tell tells the running process of the new files.
func (tx *Tx) tell(ctx context.Context, p Process) error {
	if err := tx.precheck(ctx, p); err != nil {
		return err
	}
	if err := tx.a.fault("reload"); err != nil {
		return err
	}
	return p.Reload(ctx, tx.event(EventReload))
}

// leave is for an agent that is told to end in the middle. What is committed
// stays for the next start to confirm; what is not is taken back now, so that it
// does not count as an interruption.
func (tx *Tx) leave(ctx context.Context) error {
	if tx.State() == journal.Prepared && tx.undo() == nil {
		_ = tx.Close() // if not, Recover does it
	}
	tx.Pause()
	return context.Cause(ctx)
}

// Pause notes that the agent ends in order before a committed transaction is
// confirmed: that is not an interruption.
func (tx *Tx) Pause() {
	if tx.State() != journal.Committed {
		return
	}
	e := tx.j.Last
	e.Paused = true
	if err := tx.enter(e); err != nil {
		tx.a.log.Warn("cannot note in the journal that the agent ends in order", "error", err)
	}
}

// asReason gives an error of Commit the code it has by default.
func asReason(err error) *reason.Error {
	if e, ok := errors.AsType[*reason.Error](err); ok {
		return e
	}
	return reason.Errorf(commitCode(err), "cannot put the new files into place: %w", err)
}

// RollBack makes the tree the old build again and brings the process back to it.
// The context does not end it before the tree is whole again, only the wait for the process after that. The result is
// rolled back with the cause's code, or failed if the tree could not be restored.
func (tx *Tx) RollBack(ctx context.Context, p Process, cause *reason.Error) Result {
	told := ctx // waiting for the process may be cut short: the journal says undone then
	ctx = context.WithoutCancel(ctx)
	if err := tx.begin(cause); err != nil {
		return tx.failed(p, cause, err)
	}
	level := hclog.Warn
	if cause.Code == reason.Requested {
		level = hclog.Info
	}
	tx.log().Log(level, "undoing the patch", "reason", string(cause.Code), "detail", cause.Detail)
	if err := tx.strategy().before(ctx, tx, p); err != nil && err.Error() != cause.Detail { // once is enough
		tx.note("%v", err)
	}
	err := tx.undo()
	if err == nil {
		err = tx.undone()
	}
	if err != nil {
		return tx.failed(p, cause, err)
	}
	tx.Return(told, p)
	return tx.Undone()
}

// Return brings the process back to the old files: it is told of them, or started
// on them, and then the last hook runs. What goes wrong is kept for Undone. RollBack does it; for a transaction
// that Recover has undone it is left to do. Of a transaction that is Untouched a running process is told
// nothing.
func (tx *Tx) Return(ctx context.Context, p Process) {
	tx.Resume(ctx, p)
	tx.afterRollback(ctx, p)
}

// Resume is Return without the last hook, for a transaction that is Untouched and begins
// anew.
func (tx *Tx) Resume(ctx context.Context, p Process) {
	_ = tx.a.fault("return")
	after := tx.strategy().after
	if tx.untouched {
		after = asItWas
	}
	err := after(ctx, tx, p)
	switch code, _ := tx.Cause(); {
	case err == nil:
	case p.Up() || ctx.Err() != nil || code == reason.StopFailed: // it is there, or may be
		tx.note("on the old files: %v", err)
	default:
		tx.lost = err
	}
	tx.up()
}

// asItWas is for a process whose files have not changed. It may have been stopped.
func asItWas(ctx context.Context, tx *Tx, p Process) error {
	if p.Up() {
		p.Resume()
		return nil
	}
	return p.Start(ctx, tx.event(EventRollback))
}

// ProcessDown begins the detail of a Result whose process is down on the old files, too.
const ProcessDown = "rolled back, and the process is down: "

// Undone is the result of a transaction that was undone.
func (tx *Tx) Undone() Result {
	last := tx.j.Last
	detail := strings.Join(append([]string{last.Detail}, tx.notes...), "; ")
	if tx.lost != nil {
		detail = fmt.Sprintf("%son the old files, too, it could not be started: %v; it was rolled back because: %s", ProcessDown, tx.lost, detail)
	}
	return Result{Outcome: reason.RolledBack, Code: last.Code, Detail: detail, Output: last.Output, Downtime: tx.down}
}

func (tx *Tx) undone() error {
	if err := tx.a.fault("undone"); err != nil {
		return err
	}
	e := tx.j.Last
	e.State = journal.Undone
	return tx.enter(e)
}

// enter adds to the journal what the next agent needs to go on from there.
func (tx *Tx) enter(e journal.Entry) error {
	e.Time, e.Stopped, e.Down = time.Now(), tx.stopped, tx.down
	return tx.j.Enter(e)
}

// since is for how long the process is away by now.
func (tx *Tx) since() time.Duration {
	return max(0, time.Since(tx.stopped)) // the clock may have gone back since an earlier agent
}

// up ends the time for which the process was away.
func (tx *Tx) up() {
	if !tx.stopped.IsZero() {
		tx.down += tx.since()
		tx.stopped = time.Time{}
	}
}

func (tx *Tx) event(name string) Event {
	plan := tx.j.Plan
	if plan.Back() && (name == EventStart || name == EventReload) {
		name = EventRollback
	}
	return Event{Name: name, Patch: plan.Patch, Build: plan.Build, FromBuild: plan.FromBuild, Strategy: tx.strategy().name(), Root: tx.a.opts.Root}
}
