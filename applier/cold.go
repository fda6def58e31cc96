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
	if err := tx.a.fault("stop"); err != nil {
		return err
	}
	p.Prepare(ctx)
	if err := tx.stop(ctx, p, true); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return c.confirm(ctx, tx, p)
}

// confirm finds the process up if an earlier agent had started it, on the new files
// then: it was stopped before they came, and the first two hooks are over.
func (cold) confirm(ctx context.Context, tx *Tx, p Process) error {
	if !p.Up() {
		if err := tx.hook(ctx, p, HookAfterFiles); err != nil {
			return err
		}
		if err := tx.start(ctx, p); err != nil {
			return err
		}
		tx.up() // the hook is not what it was away for
	}
	return tx.afterStart(ctx, p)
}

func (cold) before(ctx context.Context, tx *Tx, p Process) error {
	p.Prepare(ctx) // a process that is down, too: what is prepared keeps its sockets
	return tx.stop(ctx, p, tx.stopped.IsZero() && p.Up())
}

// stop stops the process. If that begins the time for which it is away, it is not away
// where that fails and it is up still.
func (tx *Tx) stop(ctx context.Context, p Process, begins bool) error {
	if begins {
		tx.stopped = time.Now()
	}
	err := p.Stop(ctx, tx.event(EventStop))
	if err != nil && begins && p.Up() {
		tx.stopped = time.Time{}
	}
	return err
}

func (cold) after(ctx context.Context, tx *Tx, p Process) error {
	if p.Up() {
		return nil // it never stopped, and what it stands on was never changed
	}
	return p.Start(ctx, tx.event(EventRollback))
}
