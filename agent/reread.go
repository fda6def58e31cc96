package main

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/applier"
	"patchagent/watcher"
)

// reader takes over a changed agent.toml. A bad one never replaces a good one.
type reader struct {
	a        *agent
	sink     *logSink
	folder   *watcher.Watcher
	reloader *config.Reloader
	bad      bool // what was read last is not used
}

// reread looks at agent.toml and takes over what has changed in it. After a
// hangup the log is also opened anew.
func (r *reader) reread(ctx context.Context, hangup bool) {
	a := r.a
	if hangup {
		if err := r.sink.open(a.cfg.Log); err != nil {
			a.log.Error("cannot reopen the log", "error", err)
		}
		r.reloader.Again()
	}
	next, err := r.reloader.Reread()
	if err != nil {
		r.bad = true
		for problem := range strings.SplitSeq(err.Error(), "\n") {
			a.log.Error("agent.toml is not used as it is now; the old configuration stays", "error", problem)
		}
		return
	}
	if next == nil {
		return
	}
	live, restart := config.Changed(a.cfg, next)
	if len(live)+len(restart) == 0 && (hangup || r.bad) {
		a.log.Info("agent.toml is good, and as it was: it has not changed")
	}
	r.bad = false
	if len(live) > 0 {
		a.log.Info("agent.toml has changed", "keys", strings.Join(live, " "))
	}
	if len(restart) > 0 {
		a.log.Warn("agent.toml has changed in keys that need a restart of the agent", "keys", strings.Join(restart, " "))
	}
	r.doubt(ctx, next)
	r.take(ctx, next)
}

// doubt tells what cannot work on this machine of a configuration that counts all the
// same: it may be about what is yet to come.
func (r *reader) doubt(ctx context.Context, next *config.Config) {
	for _, f := range next.CheckMachine(ctx) {
		if f.OK {
			continue
		}
		pairs := []any{"key", f.Subject, "error", f.Message}
		if f.Hint != "" {
			pairs = append(pairs, "hint", f.Hint)
		}
		r.a.log.Warn("agent.toml counts as it is now, but cannot work on this machine", pairs...)
	}
}

func (r *reader) take(ctx context.Context, next *config.Config) {
	a := r.a
	next.KeepFixed(a.cfg)
	if len(a.cfg.Verify.Keys) > 0 && len(next.Verify.Keys) == 0 {
		a.log.Warn("signatures are not asked for any more: whoever can write to the patch folder can change the tree", "folder", next.Patch.Dir)
	}
	if err := r.sink.open(next.Log); err != nil {
		a.log.Error("the log stays where it is", "error", err)
		next.Log.File = a.cfg.Log.File
	}
	a.log.SetLevel(hclog.LevelFromString(next.Log.Level))
	a.askAnew(next.Target.Gate)
	a.cfg, a.keysSeen = next, time.Time{}
	r.folder.SetPoll(ctx, time.Duration(next.Patch.Poll))
	a.pruning = true
	a.folder.Configure(folderOptions(next, a.log.Named("watcher")))
	a.applier.Configure(next.Target.Protect, func() applier.Guarded { return guarded(next) }, next.State.Keep)
	a.process.Configure(processOptions(next))
	installed := a.installed
	if installed.Update(next.Build, next.Region, next.Product) {
		if err := installed.Save(next.State.Dir); err != nil {
			a.log.Error("cannot record the new build, region or product of agent.toml", "error", err)
			return
		}
		a.installed = installed
	}
}
