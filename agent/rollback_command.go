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
			a, err := askAgent(cmd.Context(), cfg.State.Dir, "rollback", ask)
			if errors.Is(err, errNoAgent) {
				a, err = rollBackAlone(cmd.Context(), cfg, io, ask)
			}
			switch {
			case err != nil:
				return &exitError{exitFailed, err}
			case a.Status != exitDone:
				return &exitError{a.Status, errors.New(a.Message)}
			}
			_, err = fmt.Fprintln(io.Out, a.Message)
			return err
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
	a := &agent{cfg: cfg, log: log, fault: io.Fault, waiting: map[string]string{}}
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
		return answer{}, err
	}
	a.process.absent = !a.process.Up()
	// From here on it is not cut short: nobody would go on with what is left but the
	// next agent, which may be long in coming.
	ctx = context.WithoutCancel(ctx)
	if _, err := a.recover(ctx); err != nil {
		return answer{}, err
	}
	said := a.rollBack(ctx, ask)
	return said, a.fatal
}
