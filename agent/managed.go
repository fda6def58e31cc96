package main

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/agent/supervisor"
	"patchagent/applier"
)

// managed is what is patched: a process of the agent's own (supervisor.Supervisor), or
// a service that another manager runs (supervisor.External). env is for commands that
// run for a patch.
type managed interface {
	Run(context.Context) error
	Adopt(context.Context) error
	CameUp(ctx context.Context, env []string) error
	Release()
	Configure(supervisor.Options)

	Status() supervisor.Status
	Up() bool
	Changed() <-chan struct{}
	Tail() string

	Prepare(context.Context)
	Stop(ctx context.Context, env []string) error
	Start(ctx context.Context, env []string) error
	Hold(context.Context) error
	Resume()
	Retry() (again bool)
	Precheck(ctx context.Context, env []string) error
	Reload(ctx context.Context, env []string) error
	StillUp(context.Context) error
	Hook(ctx context.Context, event string, env []string) error

	Sick(context.Context) error
	Watch(ctx context.Context, env []string, sick bool) error
}

// own is a process of the agent's own: it is stopped by a signal, and that takes no
// environment.
type own struct{ *supervisor.Supervisor }

func (o own) Stop(ctx context.Context, _ []string) error { return o.Supervisor.Stop(ctx) }

func manage(cfg *config.Config, m *manager, log hclog.Logger) managed {
	if cfg.Target.External.Set {
		return supervisor.NewExternal(processOptions(cfg), log)
	}
	s := supervisor.New(processOptions(cfg), log)
	s.KeepSockets(m.keeper(), m.left)
	return own{s}
}

func hooks(t config.Target) supervisor.Hooks {
	return supervisor.Hooks{Timeout: time.Duration(t.Hooks.Timeout), Commands: map[string][]string{
		applier.HookBeforeStop: t.Hooks.BeforeStop, applier.HookAfterFiles: t.Hooks.AfterFiles,
		applier.HookAfterStart: t.Hooks.AfterStart, applier.HookAfterRollback: t.Hooks.AfterRollback,
	}}
}
