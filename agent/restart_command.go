package main

import (
	"errors"
	"fmt"
	"io/fs"

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
			a, err := askAgent(hearWaiting(cmd.Context(), io.Err), dir, "restart", nil)
			switch {
			case errors.Is(err, fs.ErrPermission):
				return &exitError{exitFailed, fmt.Errorf("cannot ask the agent: permission denied in %s; run this command as the agent's user", dir)}
			case errors.Is(err, errNoAgent):
				return &exitError{exitFailed, fmt.Errorf("%w with state.dir %s, and only an agent starts the process: start the agent; it starts the process, or takes over one that is left running", errNoAgent, dir)}
			}
			return io.tell(a, err)
		},
	}
}
