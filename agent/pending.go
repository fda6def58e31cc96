package main

import (
	"context"
	"errors"
	"fmt"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

// untilMended ends what is said of a patch that could not be undone.
const untilMended = "nothing is applied until that is mended and the agent started again"

// failedText says of an agent that could not undo a patch what that means now.
func failedText(p supervisor.Status) string {
	how := applier.TreeBetween
	if isDown(p.State) {
		how = applier.ProcessDownBetween
	}
	return how + "a patch could not be undone; " + untilMended
}

// checkPending looks for a transaction that is open, and that no agent is at: the build on
// record need not be what is in the tree then.
func checkPending(ctx context.Context, cfg *config.Config, running bool) (f config.Finding, found bool) {
	f = config.Finding{OK: true, Doubt: true, Subject: "state.dir"}
	if running {
		s, err := askAgentStatus(ctx, cfg.State.Dir)
		switch {
		case errors.Is(err, errNoAnswer):
			f.Message, f.Hint = err.Error(), "its log, or a new start of the agent"
			return f, true
		case err != nil || !s.Failed:
			return f, false
		}
		f.Message, f.Hint = failedText(s.Process), "what `patchagent status` names, then a new start of the agent"
		return f, true
	}
	plan, err := applier.Pending(cfg.State.Dir)
	switch {
	case err != nil:
		f.OK, f.Doubt, f.Message = false, false, err.Error()
	case plan == nil:
		return f, false
	default:
		name := plan.Patch
		if plan.Back() {
			name = "a rollback"
		}
		f.Message = fmt.Sprintf("a transaction is open: %s from build %d to %d, begun at %s, and no agent is running; %s", name, plan.FromBuild, plan.Build, stamp(plan.Started), applier.TreeBetween+"the next start of the agent goes on with it")
		f.Hint = "a start of the agent; if that fails it says why"
	}
	return f, true
}

// undoneSince says of a receipt that a patch could not be undone whether it was since: a
// later start of the agent has ended its transaction then.
func undoneSince(r record.Receipt, stateDir string) bool {
	if r.Outcome != reason.Failed {
		return false
	}
	plan, err := applier.Pending(stateDir)
	return err == nil && (plan == nil || plan.ID != r.ID)
}
