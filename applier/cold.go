package applier

import (
	"context"
	"time"
)

// cold stops the process, replaces files and starts it again. All that can be
// prepared is done before the stop, so the process is away for its own stop and
// start and a rename a file.
type cold struct{}

func (cold) name() string { return "cold" }

func (c cold) do(ctx context.Context, tx *Tx, p Process) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	tx.stopped = time.Now()
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return c.confirm(ctx, tx, p)
}

func (cold) confirm(ctx context.Context, tx *Tx, p Process) error {
	return p.Start(ctx, tx.event(EventStart))
}

func (cold) before(ctx context.Context, _ *Tx, p Process) error { return p.Stop(ctx) }

func (cold) after(ctx context.Context, tx *Tx, p Process) error {
	if p.Up() {
		return nil // it never stopped, and what it stands on was never changed
	}
	return p.Start(ctx, tx.event(EventRollback))
}
