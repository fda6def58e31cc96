package applier

import (
	"context"

	"patchagent/manifest/reason"
)

// Hooks are commands of the operator's around a transaction; these are their names,
// and those of their events. A transaction without steps has none. Each may run twice,
// if an agent was interrupted before its journal said that it was over.
const (
	// HookBeforeStop runs when all is staged, before the process is stopped and before
	// the first file changes. If it fails the patch is rejected: nothing was touched.
	HookBeforeStop = "before_stop"
	// HookAfterFiles runs when the new files are in place and durable, before the
	// precheck. If it fails the patch is rolled back, and the process was told nothing.
	HookAfterFiles = "after_files"
	// HookAfterStart runs when the process is up on the new files, or was told of them.
	// If it fails the patch is rolled back.
	HookAfterStart = "after_start"
	// HookAfterRollback runs on the old files, when the process is back on them or could
	// not be brought back; also where no file had changed, if an interrupted transaction is
	// not begun anew, since the first hook may have run. That it fails is noted.
	HookAfterRollback = "after_rollback"
)

// hook runs one of them.
func (tx *Tx) hook(ctx context.Context, p Process, name string) error {
	if err := tx.a.fault("hook %s", name); err != nil {
		return err
	}
	err := p.Hook(ctx, tx.event(name))
	if err != nil && ctx.Err() == nil {
		tx.log().Warn("a hook failed", "hook", name, "error", err)
	}
	return err
}

// afterStart runs the hook of a process that is up on the new files, and looks whether it
// is so after that.
func (tx *Tx) afterStart(ctx context.Context, p Process) error {
	if err := tx.hook(ctx, p, HookAfterStart); err != nil {
		return err
	}
	return p.StillUp(ctx)
}

// refused ends a transaction whose first hook has failed: the tree and the process are
// as they were, so there is nothing to undo. If it is the context that has ended, the
// next start tries the patch again.
func (tx *Tx) refused(ctx context.Context, err error) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, tx.leave(ctx)
	}
	e := asReason(err)
	code := e.Code
	if code.Outcome() != reason.Rejected {
		code = reason.NotAllowed
	}
	return Result{Outcome: reason.Rejected, Code: code, Detail: e.Detail}, nil
}

// afterRollback runs the last hook of a transaction that was undone. Nothing is left
// that its failure could undo, so that is noted. It is not cut short by the context: the
// outcome may be written down next, and then no other agent would run it.
func (tx *Tx) afterRollback(ctx context.Context, p Process) {
	if len(tx.j.Plan.Steps) == 0 {
		return
	}
	if err := tx.hook(context.WithoutCancel(ctx), p, HookAfterRollback); err != nil {
		tx.note("%v", err)
	}
}
