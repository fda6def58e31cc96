package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"patchagent/agent/config"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

func rollbackCommand(file *string, io Program) *cobra.Command {
	var to int64
	var ask rollback
	cmd := &cobra.Command{
		Use: "rollback", Short: "Go back to the build before, or to another one that is kept", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("to") {
				ask.To = &to
			}
			a, err := askAgent(hearWaiting(cmd.Context(), io.Err), cfg.State.Dir, "rollback", ask)
			if errors.Is(err, errNoAgent) {
				a, err = rollBackAlone(cmd.Context(), cfg, io, ask)
			}
			return io.tell(a, err)
		},
	}
	cmd.Flags().Int64Var(&to, "to", 0, "the `BUILD` to go back to, over all patches since")
	cmd.Flags().BoolVar(&ask.Force, "force", false, "also over files that were changed by hand since; they are kept aside")
	return cmd
}

// rollBackAlone rolls back where no agent runs, under its lock. A process that an
// agent has left running is taken over for as long as that takes, and left running;
// where there is none, none is started.
func rollBackAlone(ctx context.Context, cfg *config.Config, io Program, ask rollback) (answer, error) {
	info, err := os.Stat(cfg.State.Dir)
	if err != nil {
		return no(exitRejected, "cannot roll back: there is no state.dir, so no patch has been applied: %v", err), nil
	}
	if owner, own := config.OwnedByUs(info); !own {
		return answer{}, fmt.Errorf("cannot roll back: %s belongs to %s, whose agent could not go on after that; run this command as that user", cfg.State.Dir, owner)
	}
	log, sink, err := newLogger(cfg.Log, io.Err)
	if err != nil {
		return answer{}, err
	}
	defer sink.close()
	a := &agent{cfg: cfg, log: log, fault: io.Fault, waiting: map[string]string{}, alone: &ask}
	if err := makeFolders(cfg); err != nil {
		return answer{}, err
	}
	if err := a.openState(ctx, "rollback"); err != nil {
		if _, locked := errors.AsType[*applier.LockedError](err); locked {
			return no(exitLater, "cannot roll back now: an agent works with %s, and takes no requests yet; ask again in a moment", cfg.State.Dir), nil
		}
		return answer{}, err
	}
	defer a.closeState()

	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.process = process{managed: manage(cfg, &a.manager, log.Named("process"))}
	var helper sync.WaitGroup
	defer helper.Wait()
	defer stop()
	defer a.process.Release()
	helper.Go(func() {
		if err := a.process.Run(beside); err != nil {
			log.Error("cannot look after the process", "error", err)
		}
	})
	defer a.leave()
	if err := a.process.Adopt(ctx); err != nil {
		if ctx.Err() != nil {
			return notMade("rollback"), nil
		}
		return answer{}, err
	}
	a.process.absent = !a.process.Up()
	// From here on it is not cut short: nobody would go on with what is left but the
	// next agent, which may be long in coming.
	defer context.AfterFunc(ctx, func() { fmt.Fprintln(io.Err, goesOn) })()
	ctx = context.WithoutCancel(ctx)
	if _, err := a.recover(ctx); err != nil {
		return answer{}, err
	}
	said, is := a.broughtBack(ask.To)
	if !is {
		said = a.rollBack(ctx, ask, moment{ended: idOf(a.ended)})
	}
	if said.Status == exitDone {
		said.Message += a.process.missing()
	}
	return said, a.fatal
}

// goesOn is said to whoever interrupts a rollback that works without an agent.
const goesOn = "patchagent: interrupted, but the rollback has begun and comes to its end first, which this command waits for; " +
	"if it is killed, start the agent: that finishes the rollback, or takes it back"

// broughtBack is the answer to a command that works without an agent, if that was all
// that is wanted: what the last agent had left under way was brought to its end.
func (a *agent) broughtBack(to *int64) (said answer, is bool) {
	r := a.ended
	switch {
	case r == nil || a.failed || a.unrecorded() || to != nil && *to != a.installed.Build:
		return answer{}, false
	case r.Reason == reason.Requested:
		return a.answerOf(*r), true
	case r.Patch == "" && r.Reason != reason.Interrupted:
		return a.answerOf(*r), true
	case r.Patch != "" && r.Outcome == reason.RolledBack:
		return a.undoneAlready(*r), true
	case r.Patch != "" && r.Outcome == reason.Failed:
		return answer{Message: fmt.Sprintf("%s, which could not be undone before, is undone now; build %d is installed, nothing more was rolled back", r.Patch, a.installed.Build), Receipt: r}, true
	default:
		return answer{}, false // a rollback that was cut short is made now, as it is asked for
	}
}

// missing says of a process that does not run what is to be done.
func (p process) missing() string {
	switch {
	case !p.absent && !p.down():
		return ""
	case p.Status().External:
		return "; the service does not run: if a patch has stopped it, the agent starts it"
	default:
		return "; no process runs: start the agent"
	}
}
