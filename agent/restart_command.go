package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func restartCommand(file *string, io Program) *cobra.Command {
	return &cobra.Command{
		Use: "restart", Short: "Restart the process, or start it if it is down", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			dir := cfg.State.Dir
			stop := tellWait(cmd.Context(), dir, func(what string) { fmt.Fprintf(io.Err, "waiting for %s\n", what) })
			a, err := askAgent(cmd.Context(), dir, "restart", nil)
			stop()
			switch {
			case errors.Is(err, fs.ErrPermission):
				return &exitError{exitFailed, fmt.Errorf("cannot ask the agent: permission denied in %s; run this command as the agent's user", dir)}
			case errors.Is(err, errNoAgent):
				return &exitError{exitFailed, fmt.Errorf("%w with state.dir %s, and only an agent starts the process: start the agent; it starts the process, or takes over one that is left running", errNoAgent, dir)}
			case err != nil:
				return &exitError{exitFailed, err}
			case a.Status != exitDone:
				return &exitError{a.Status, errors.New(a.Message)}
			}
			_, err = fmt.Fprintln(io.Out, a.Message)
			return err
		},
	}
}

// waitLook is how often the agent is asked what a request waits for.
const waitLook = 200 * time.Millisecond

// tellWait tells of each patch that the running agent applies, for a request that has to
// wait for that, at once and until stop is called or ctx is done.
func tellWait(ctx context.Context, stateDir string, tell func(what string)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var helper sync.WaitGroup
	helper.Go(func() {
		look := time.NewTicker(waitLook)
		defer look.Stop()
		told := work{}
		for {
			var s status
			err := callAgent(ctx, stateDir, http.MethodGet, "/status", nil, &s)
			if now := s.Applying; err == nil && now != nil && ctx.Err() == nil && (now.Patch != told.Patch || !now.Since.Equal(told.Since)) {
				told = *now
				tell(now.Patch + ", which is being applied")
			}
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
		}
	})
	return func() { cancel(); helper.Wait() }
}
