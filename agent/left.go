package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// withoutAgent is what there is to say of a state folder whose agent does not answer: who
// is at work there all the same, or else whether the process runs, and what is under way.
// It changes nothing.
func withoutAgent(ctx context.Context, cfg *config.Config) error {
	none := fmt.Errorf("%w with state.dir %s", errNoAgent, cfg.State.Dir)
	if _, err := os.Stat(cfg.State.Dir); errors.Is(err, fs.ErrNotExist) {
		return none
	}
	switch pid, purpose := applier.Holder(cfg.State.Dir); {
	case pid != "" && purpose != "":
		return fmt.Errorf("%w; a %s works without one (pid %s), and comes to its end", none, purpose, pid)
	case pid != "":
		return fmt.Errorf("the agent with state.dir %s (pid %s) gives no answer: it has only begun, or ends, or its log says why commands cannot reach it", cfg.State.Dir, pid)
	}
	what, err := unfinished(cfg.State.Dir)
	if err != nil {
		what = fmt.Sprintf("what it was at cannot be read: %v", err)
	} else if what == "" {
		what = "nothing is under way: start the agent"
	}
	return fmt.Errorf("%w; %s; %s", none, leftProcess(ctx, cfg), what)
}

// leftProcess says whether what is patched runs.
func leftProcess(ctx context.Context, cfg *config.Config) string {
	if cfg.Target.External.Set {
		switch active, _, err := processOptions(cfg).AskStatus(ctx); {
		case err != nil:
			return fmt.Sprintf("whether the service runs is not known: %v", err)
		case active:
			return "the service runs"
		default:
			return "the service does not run"
		}
	}
	switch pid, runs, err := supervisor.Left(filepath.Join(cfg.State.Dir, processName)); {
	case err != nil:
		return err.Error()
	case runs:
		return fmt.Sprintf("the process that it left (pid %d) runs", pid)
	default:
		return "no process runs"
	}
}

// unfinished says what patch or rollback an agent that no longer runs has left under
// way, how far it has come, and what the next start does about it; "" if there is none.
// It changes nothing. The errors are those of journal.Open, and that the receipts cannot
// be read.
func unfinished(stateDir string) (string, error) {
	plan, last, err := journal.ReadLast(applier.JournalPath(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	receipts, err := record.Read(stateDir)
	if err != nil {
		return "", err
	}
	name := plan.Patch
	if plan.Back() {
		name = fmt.Sprintf("a rollback to build %d", plan.Build)
	}
	if i := slices.IndexFunc(receipts, func(r record.Receipt) bool { return r.ID == plan.ID }); i >= 0 {
		if r := receipts[i]; r.Outcome != reason.Failed {
			return fmt.Sprintf("%s has its outcome (%s), and what is left of it is put away at the next start of the agent", name, r.Outcome), nil
		}
		return name + " could not be undone: mend what `patchagent history` names, then start the agent, it goes on undoing", nil
	}
	return name + " is " + stage(plan, last), nil
}

// stage is how far a transaction without an outcome has come.
func stage(plan journal.Plan, last journal.Entry) string {
	switch {
	case last.State == journal.Committed && plan.Back():
		return "under way, its files are in place: start the agent, it goes on from there"
	case last.State == journal.Committed:
		return "under way, its new files are in place: start the agent, it goes on from there"
	case last.State == journal.Undoing:
		return fmt.Sprintf("being undone (%s): start the agent, it goes on with that", last.Code)
	case last.State == journal.Undone:
		return fmt.Sprintf("undone (%s), and its outcome is not written down yet: start the agent, it goes on from there", last.Code)
	case plan.Back():
		return "under way, some of its files may be in place: start the agent, it takes them out again; then ask for the rollback once more"
	default:
		return "under way, some of its new files may be in place: start the agent, it takes them out again and begins anew"
	}
}
