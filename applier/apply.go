package applier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// A Result is how a transaction ended. The journal is still there: when the
// result is on record, Close ends the transaction.
type Result struct {
	Outcome  reason.Outcome
	Code     reason.Code // "" if applied
	Detail   string
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
// rolled back. The only errors it returns are those that leave the decision to
// the next start: the context's end (with the journal as it then is), and none
// other.
func (tx *Tx) Apply(ctx context.Context, p Process) (Result, error) {
	return tx.conclude(ctx, p, tx.strategy().do(ctx, tx, p))
}

// Confirm is Apply for a transaction that Recover found Committed.
func (tx *Tx) Confirm(ctx context.Context, p Process) (Result, error) {
	return tx.conclude(ctx, p, tx.strategy().confirm(ctx, tx, p))
}

func (tx *Tx) conclude(ctx context.Context, p Process, err error) (Result, error) {
	switch {
	case err == nil:
		return Result{Outcome: reason.Applied, Downtime: tx.downtime()}, nil
	case ctx.Err() != nil && tx.State() != journal.Undoing:
		return Result{}, tx.leave(ctx)
	}
	r := tx.RollBack(ctx, p, asReason(err))
	r.Downtime = tx.downtime()
	return r, nil
}

// leave is for an agent that is told to end in the middle. What is committed
// stays for the next start to confirm; what is not is taken back now, so that it
// does not count as an interruption.
func (tx *Tx) leave(ctx context.Context) error {
	if tx.State() == journal.Prepared && tx.undo() == nil {
		_ = tx.Close() // if not, Recover does it
	}
	return context.Cause(ctx)
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
	failed := func(err error) Result {
		return Result{Outcome: reason.Failed, Code: reason.RollbackFailed,
			Detail: fmt.Sprintf("cannot undo the patch: %v; it was to be undone because: %s (%s)", err, cause.Detail, cause.Code)}
	}
	if err := tx.begin(cause); err != nil {
		return failed(err)
	}
	s := tx.strategy()
	var trouble []string
	if err := s.before(ctx, tx, p); err != nil {
		trouble = append(trouble, err.Error())
	}
	if err := tx.undo(); err != nil {
		return failed(err)
	}
	if err := tx.undone(); err != nil {
		return failed(err)
	}
	if err := s.after(told, tx, p); err != nil {
		trouble = append(trouble, "on the old files: "+err.Error())
	}
	detail := strings.Join(append(append([]string{cause.Detail}, trouble...), tx.notes...), "; ")
	return Result{Outcome: reason.RolledBack, Code: cause.Code, Detail: detail}
}

func (tx *Tx) undone() error {
	if err := tx.a.fault("undone"); err != nil {
		return err
	}
	e := tx.j.Last
	e.State, e.Time = journal.Undone, time.Now()
	return tx.j.Enter(e)
}

// downtime is how long the process was away: nothing if it stayed.
func (tx *Tx) downtime() time.Duration {
	if tx.stopped.IsZero() {
		return 0
	}
	return time.Since(tx.stopped)
}

func (tx *Tx) event(name string) Event {
	plan := tx.j.Plan
	return Event{Name: name, Patch: plan.Patch, Build: plan.Build, FromBuild: plan.FromBuild, Strategy: tx.strategy().name(), Root: tx.a.opts.Root}
}
