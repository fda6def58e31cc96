package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"patchagent/agent/supervisor"
	"patchagent/manifest/reason"
)

// restart stops the process, if there is one, and starts it, because an operator has
// asked for it. No command of a patch runs for that, and nothing is put on record. A
// process that does not come up is tried again as the policy says.
//
// A patch on probation is not held to the end of the process that was stopped: its
// probation begins anew. But one whose process does not come up is rolled back.
func (a *agent) restart(ctx context.Context) answer {
	defer a.publish(nil)
	if err := a.restartable(); err != nil {
		return no(exitFailed, "not restarted: %v", err)
	}
	was := a.process.Status()
	a.log.Info("restart requested", "state", string(was.State), "pid", was.PID)
	a.question.takeBack() // what it would answer is about the process as it was
	a.suspendTrial(ctx)
	if ctx.Err() != nil {
		return no(exitFailed, "not restarted: the agent is ending")
	}
	if err := a.restartable(); err != nil { // the verdict may have been out
		a.resumeTrial(ctx)
		return no(exitFailed, "not restarted: %v", err)
	}

	a.process.Prepare(ctx)
	down, began := a.process.down(), time.Now()
	if err := a.process.managed.Stop(ctx, nil); err != nil && !a.process.down() {
		a.log.Error("cannot restart the process", "error", err)
		a.resumeTrial(ctx)
		a.keepUp()
		return no(exitFailed, "not restarted: %v", err)
	}
	err := a.process.managed.Start(ctx, nil)
	switch {
	case err != nil && ctx.Err() != nil:
		return no(exitFailed, "the agent is ending, and does not wait until the process is up")
	case err != nil:
		return a.notRestarted(ctx, a.process.notUp(ctx, err))
	}
	took := time.Since(began)
	a.resumeTrial(ctx)
	return answer{Status: exitDone, Message: restarted(a.process.Status(), down, took)}
}

// restartable says why the process is not to be stopped now.
func (a *agent) restartable() error {
	if a.fatal != nil {
		return a.fatal
	}
	if a.failed {
		return fmt.Errorf("a patch could not be undone, and what the process would be started on may be a mixture; mend that and start the agent again (%s)", reason.RollbackFailed)
	}
	if a.process.down() {
		return nil
	}
	if err := a.cfg.Target.CheckStart(nil); err != nil {
		return fmt.Errorf("the process is as it was, since it could not be started again: %w", err)
	}
	return nil
}

// restarted tells of a process that is up. took is from the stop signal until ready.
func restarted(is supervisor.Status, wasDown bool, took time.Duration) string {
	what, how := "process", "restarted"
	if is.External {
		what = "service"
	}
	if wasDown {
		how = "started"
	}
	text := fmt.Sprintf("the %s is %s", what, how)
	if is.PID != 0 { // else it is another manager's, or has ended already
		text += fmt.Sprintf(": pid %d", is.PID)
	}
	if wasDown {
		return fmt.Sprintf("%s, ready after %d ms", text, took.Milliseconds())
	}
	return fmt.Sprintf("%s, away for %d ms", text, took.Milliseconds())
}

// notRestarted is for a process that did not come up, and is down.
func (a *agent) notRestarted(ctx context.Context, why error) answer {
	a.log.Error("the process did not come up when it was restarted", "error", why)
	cause, is := errors.AsType[*reason.Error](why)
	if !is {
		return no(exitFailed, "%v", why)
	}
	if t := a.trial; t != nil {
		output := cause.Output
		cause = reason.Errorf(cause.Code, "when an operator had it restarted: %w", cause)
		cause.Output = output
		r := a.condemn(ctx, cause)
		outcome := "is rolled back"
		if r.Outcome != reason.RolledBack {
			outcome = "could not be undone"
		}
		return no(exitFailed, "the process did not come up, and %s, which was on probation, %s: %s", r.Patch, outcome, r.Detail)
	}
	next := "the agent goes on trying; see `patchagent status`"
	if !a.process.Retry() {
		next = fmt.Sprintf("it is left down (target.restart is %q)", a.cfg.Target.Restart)
	}
	said := cause.Detail + "; " + next
	if cause.Output != "" {
		said += "\nthe last that it printed:\n" + cause.Output
	}
	return no(exitFailed, "%s", said)
}

// suspendTrial ends the questions of a probation, if there is one, so that the end of the
// process is none of its business. If the verdict was out it is carried out; otherwise
// resumeTrial, or the end of the agent, has to follow.
func (a *agent) suspendTrial(ctx context.Context) {
	t := a.trial
	if t == nil {
		return
	}
	t.cancel()
	t.watch.Wait()
	if verdict := <-t.verdict; verdict == nil || errors.Is(verdict, supervisor.ErrUnhealthy) {
		a.judge(ctx, verdict)
	}
}

// resumeTrial begins a suspended probation anew.
func (a *agent) resumeTrial(ctx context.Context) {
	if t := a.trial; t != nil {
		a.trial = nil
		a.confirmed(ctx, t)
	}
}
