package applier

import (
	"context"

	"patchagent/manifest/reason"
)

// warm replaces resources under a running process and tells it. The process is
// never stopped: its pid stays. One that is down is started on the new files,
// since a patch may be what mends it.
type warm struct{}

func (warm) name() string { return "warm" }

func (w warm) do(ctx context.Context, tx *Tx, p Process) error {
	if err := p.Hold(ctx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return w.confirm(ctx, tx, p)
}

func (warm) confirm(ctx context.Context, tx *Tx, p Process) error {
	if err := tx.hook(ctx, p, HookAfterFiles); err != nil {
		return err
	}
	bring := tx.tell
	if !p.Up() {
		bring = tx.start
	}
	if err := bring(ctx, p); err != nil {
		return err
	}
	return tx.afterStart(ctx, p)
}

func (warm) before(ctx context.Context, _ *Tx, p Process) error { return p.Hold(ctx) }

// after does not tell a process of files that it was never told of.
func (warm) after(ctx context.Context, tx *Tx, p Process) error {
	if !p.Up() {
		return p.Start(ctx, tx.event(EventRollback))
	}
	if code, _ := tx.Cause(); code == reason.PrecheckFailed {
		p.Resume()
		return nil
	}
	return p.Reload(ctx, tx.event(EventRollback))
}
