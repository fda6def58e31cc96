package main

import (
	"context"
	"fmt"
	"strings"

	"patchagent/agent/config"
	"patchagent/agent/record"
)

// check says whether the configuration is sound and can work here. It changes
// nothing; the status command of another manager's service is run once.
func check(ctx context.Context, file string, io Program) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	sound := true
	found := cfg.CheckMachine(ctx)
	running := agentRuns(ctx, cfg.State.Dir)
	if !running {
		found = append(found, cfg.Taken(ctx)...)
	}
	open, pending := checkPending(ctx, cfg, running)
	if pending {
		found = append(found, open)
	}
	if f, asked := askStatus(ctx, cfg, found); asked {
		found = append(found, f)
	}
	for _, f := range found {
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
	is := "is installed"
	if pending {
		is = "is on record, and need not be what is in the tree"
	}
	fmt.Fprintf(io.Out, "%s is sound: region %s, build %d %s\n", cfg.Path, installed.Region, installed.Build, is)
	return nil
}

// askStatus asks whether the service of another manager is up, if there is one and what
// it takes to ask is there.
func askStatus(ctx context.Context, cfg *config.Config, findings []config.Finding) (f config.Finding, asked bool) {
	if !cfg.Target.External.Set {
		return f, false
	}
	for _, f := range findings {
		if !f.OK && strings.HasPrefix(f.Subject, "target.") {
			return f, false
		}
	}
	f.Subject = "target.external.status"
	active, answer, err := processOptions(cfg).AskStatus(ctx)
	switch {
	case err != nil:
		f.Message = fmt.Sprintf("it does not say whether the service is up, so no cold patch could stop it: %v", err)
		f.Hint = "a command that ends with status 0 while the service is up, and with another one, but not 126 or 127, while it is down"
	case !active:
		f.OK, f.Doubt, f.Message = true, true, answer
		f.Hint = "starting it; if it is up, another target.external.status: one that ends with status 0 then"
	default:
		f.OK, f.Message = true, answer
	}
	return f, true
}
