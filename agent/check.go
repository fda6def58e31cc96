package main

import (
	"context"
	"fmt"

	"patchagent/agent/record"
)

// check says whether the configuration is sound and can work here. It changes
// nothing.
func check(ctx context.Context, file string, io Program) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	sound := true
	for _, f := range cfg.CheckMachine(ctx) {
		mark := "ok  "
		switch {
		case !f.OK:
			mark, sound = "BAD ", false
		case f.Doubt:
			mark = "WARN"
		}
		fmt.Fprintf(io.Out, "%s %-20s %s\n", mark, f.Subject, f.Message)
		if f.Hint != "" {
			fmt.Fprintf(io.Out, "     %-20s mend it with: %s\n", "", f.Hint)
		}
	}
	installed, _, err := record.LoadInstalled(cfg.State.Dir, cfg.Build, cfg.Region, cfg.Product)
	if err != nil {
		fmt.Fprintf(io.Out, "BAD  %-20s %v\n", "state.dir", err)
		sound = false
	}
	if !sound {
		return &exitError{exitUsage, fmt.Errorf("%s is well-formed, but cannot work on this machine", cfg.Path)}
	}
	fmt.Fprintf(io.Out, "%s is sound: region %s, build %d is installed\n", cfg.Path, installed.Region, installed.Build)
	return nil
}
