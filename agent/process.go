package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"patchagent/agent/config"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

// process is the supervised process as the applier sees it: its errors carry the
// reason codes, and the last that the process has printed.
type process struct {
	managed

	steps *steps // nil: nobody asks for them

	// absent is for a rollback without an agent where no process runs: there is none
	// to tell or to ask, and none is started.
	absent bool
}

var _ applier.Process = process{}

func (p process) Start(ctx context.Context, e applier.Event) error {
	if p.absent {
		return nil
	}
	defer p.at(applier.EventStart)()
	return p.notUp(ctx, p.managed.Start(ctx, e.Env()))
}

// cameUp says whether a process that was taken over came up on new files.
func (p process) cameUp(ctx context.Context, e applier.Event) error {
	if p.absent || !p.Up() {
		return nil // it is started yet
	}
	return p.notUp(ctx, p.managed.CameUp(ctx, e.Env()))
}

func (p process) notUp(ctx context.Context, err error) error {
	if errors.Is(err, supervisor.ErrNotReady) {
		return p.failed(ctx, reason.NotReady, err)
	}
	return p.failed(ctx, reason.StartFailed, err)
}

func (p process) Stop(ctx context.Context, e applier.Event) error {
	if p.absent {
		return nil
	}
	defer p.at(applier.EventStop)()
	return coded(ctx, reason.StopFailed, p.managed.Stop(ctx, e.Env()))
}

func (p process) Hold(ctx context.Context) error {
	return coded(ctx, reason.StopFailed, p.managed.Hold(ctx))
}

func (p process) Resume() {
	if !p.absent {
		p.managed.Resume()
	}
}

func (p process) Precheck(ctx context.Context, e applier.Event) error {
	if p.absent {
		return nil
	}
	defer p.at(applier.EventPrecheck)()
	return coded(ctx, reason.PrecheckFailed, p.managed.Precheck(ctx, e.Env()))
}

func (p process) Reload(ctx context.Context, e applier.Event) error {
	defer p.at(applier.EventReload)()
	return p.failed(ctx, reason.ReloadFailed, p.managed.Reload(ctx, e.Env()))
}

func (p process) StillUp(ctx context.Context) error {
	if p.absent {
		return nil
	}
	return p.failed(ctx, reason.StartFailed, p.managed.StillUp(ctx))
}

// Hook's failure means what applier's constants say of each. The one that takes back what
// another has done runs also where no process does.
func (p process) Hook(ctx context.Context, e applier.Event) error {
	if p.absent && e.Name != applier.HookAfterRollback {
		return nil
	}
	defer p.at(e.Name)()
	err := p.managed.Hook(ctx, e.Name, e.Env())
	switch e.Name {
	case applier.HookBeforeStop:
		return coded(ctx, reason.NotAllowed, err)
	case applier.HookAfterFiles:
		return coded(ctx, reason.PrecheckFailed, err)
	default:
		return p.failed(ctx, reason.Unhealthy, err)
	}
}

// failed is coded for what the process may have said a last word about.
func (p process) failed(ctx context.Context, code reason.Code, err error) error {
	err = coded(ctx, code, err)
	if e, ok := errors.AsType[*reason.Error](err); ok {
		addLast(e, p.Tail())
	}
	return err
}

func coded(ctx context.Context, code reason.Code, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return reason.Errorf(code, "%w", err)
}

// settled says whether a patch may have its turn: the process is up, or it cannot
// come up as it is, and then a patch may mend it. While it is on its way up or
// down, patches wait.
func (p process) settled() bool {
	switch p.Status().State {
	case supervisor.Starting, supervisor.Stopping:
		return false
	default:
		return true
	}
}

// processOptions are the supervisor's part of the configuration.
func processOptions(cfg *config.Config) supervisor.Options {
	t := cfg.Target
	return supervisor.Options{
		Command:        t.Command,
		Dir:            t.WorkDir(),
		Env:            t.Env,
		User:           t.User,
		StopSignal:     t.StopSignal.Number,
		StopTimeout:    time.Duration(t.StopTimeout),
		Restart:        supervisor.Policy(t.Restart),
		Output:         t.Output,
		Spool:          filepath.Join(cfg.State.Dir, outputName),
		OutputMaxSize:  int64(cfg.Log.MaxSize),
		OutputMaxFiles: cfg.Log.MaxFiles,
		Sockets:        heldSockets(t),
		Limits:         limits(t),
		Watchdog:       time.Duration(t.Watchdog),
		Backoff:        backoff(t),
		Ready: supervisor.Ready{
			Delay:   time.Duration(t.Ready.Delay),
			Notify:  t.Ready.Notify,
			Probe:   supervisor.Probe{HTTP: t.Ready.HTTP, TCP: t.Ready.TCP, Exec: t.Ready.Exec},
			Timeout: time.Duration(t.Ready.Timeout),
		},
		Reload: supervisor.Reload{
			Signal: t.Reload.Signal.Number, HTTP: t.Reload.HTTP, Exec: t.Reload.Exec,
			Confirm: t.Reload.Confirm == config.ConfirmNotify, Timeout: time.Duration(t.Reload.Timeout),
		},
		Precheck: t.Reload.Precheck,
		Health: supervisor.Health{
			Probe:    supervisor.Probe{HTTP: t.Health.HTTP, TCP: t.Health.TCP, Exec: t.Health.Exec},
			Interval: time.Duration(t.Health.Interval), Timeout: time.Duration(t.Health.Timeout),
			Failures: t.Health.Failures, Window: time.Duration(t.Health.Window),
		},
		StateFile: filepath.Join(cfg.State.Dir, processName),
		Hooks:     hooks(t),
		Verbs: supervisor.Verbs{
			Start: t.External.Start, Stop: t.External.Stop, Reload: t.External.Reload, Status: t.External.Status,
			Timeout: time.Duration(t.External.Timeout),
		},
	}
}

func heldSockets(t config.Target) []supervisor.Socket {
	var held []supervisor.Socket
	for _, s := range t.Sockets {
		held = append(held, supervisor.Socket{
			Listen: s.Listen, Name: s.Name, Mode: fs.FileMode(s.Mode.Bits), User: s.User, Group: s.Group, Nonblocking: s.Nonblocking,
		})
	}
	return held
}

func limits(t config.Target) supervisor.Limits {
	l := supervisor.Limits{Nice: t.Nice}
	if t.Umask.Set {
		l.Umask = new(t.Umask.Bits)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Rlimits)) {
		limit := t.Rlimits[name]
		l.Resources = append(l.Resources, supervisor.Resource{Name: name, Soft: limit.Soft, Hard: limit.Hard})
	}
	return l
}

func backoff(t config.Target) supervisor.Backoff {
	b := supervisor.Backoff{
		First: time.Duration(t.RestartDelay), Max: time.Duration(t.RestartMaxDelay),
		Limit: t.RestartLimit, Window: time.Duration(t.RestartWindow),
	}
	if b.Limit == 0 {
		b.Limit = -1 // its zero is its default, and ours is no limit
	}
	return b
}
