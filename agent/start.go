package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/manifest"
	"patchagent/manifest/signature"
	"patchagent/watcher"
)

// Names in the state folder that belong to this package.
const (
	claimsName  = "claims"
	processName = "process.json"
	outputName  = "output"
)

// runAgent runs the agent until ctx is done: it makes one state of the
// configuration and the disk, starts what runs beside the loop, and takes both
// down again in the opposite order.
func runAgent(ctx context.Context, file string, std Program) error {
	// Before anything else: a hangup that nobody listens for ends a program.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	log, sink, err := newLogger(cfg.Log, std.Err)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	defer sink.close()
	a := &agent{cfg: cfg, log: log, fault: std.Fault, began: time.Now(), waiting: map[string]string{}, crowds: map[string]int{}, pruning: true, manager: newManager()}
	if err := serve(ctx, a, sink, hangup); err != nil {
		log.Error("cannot go on", "error", err)
		status := exitFailed
		if _, ok := errors.AsType[*exitError](err); ok {
			status = exitUsage
		}
		return &exitError{status: status}
	}
	return nil
}

func serve(ctx context.Context, a *agent, sink *logSink, hangups <-chan os.Signal) error {
	if err := makeFolders(a.cfg); err != nil {
		return &exitError{exitUsage, err}
	}
	if err := a.openState(ctx, ""); err != nil {
		return err
	}
	defer a.closeState()
	// The process ends last, after the loop no longer needs it; so its context is
	// not the loop's.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()
	run := func(part string, do func(context.Context) error) {
		helpers.Go(func() {
			if err := do(beside); err != nil && beside.Err() == nil {
				a.log.Error("a part of the agent has ended", "part", part, "error", err)
			}
		})
	}
	a.manager.starting()
	a.steps.timeout = a.stepTimeout
	a.process = process{managed: manage(a.cfg, &a.manager, a.log.Named("process")), steps: &a.steps}
	if reaper, err := supervisor.NewReaper(); err != nil {
		a.log.Warn("what the process leaves behind may be found less well", "error", err)
	} else {
		run("reaper", reaper.Run)
	}
	run("process", a.process.Run)
	for _, doubt := range a.cfg.Doubts() {
		a.log.Warn("others than root and this user can get at what the agent trusts", "error", doubt)
	}
	a.log.Info("watching", "folder", a.cfg.Patch.Dir, "build", a.installed.Build, "region", a.installed.Region, "pid", os.Getpid())
	c := a.openControl(run)
	defer a.leave()
	err := a.goOn(ctx)
	if err != nil && ctx.Err() == nil {
		a.process.Release() // it is left as it is: what it stands on may be a mixture
		return err
	}

	folder := watcher.New(a.cfg.Patch.Dir, time.Duration(a.cfg.Patch.Poll), a.log.Named("watcher"))
	run("watcher", folder.Run)
	configs := config.Watch(a.cfg.Path, a.log.Named("config"))
	run("config", configs.Run)
	w := wakes{folder: folder.Wake(), process: a.process.Changed(), config: configs.C(), hangup: hangups}
	if c != nil {
		w.asked = c.requests
		a.asked = c.asked
		c.open.Store(true)
	}
	a.watching = true
	a.readKept()
	a.publish(nil)
	r := &reader{a: a, sink: sink, folder: folder, reloader: config.NewReloader(a.cfg)}
	if err := a.manager.ready(); err != nil {
		a.log.Warn("the service manager cannot be told that the agent watches", "error", err)
	}
	a.loop(ctx, w, func(hangup bool) { r.reread(ctx, hangup) })
	if a.fatal != nil {
		a.process.Release()
		return a.fatal
	}
	a.manager.stopping()
	a.log.Info("stopping", "why", context.Cause(ctx))
	return nil
}

// openControl has commands answered from now on: the status at once, requests when the
// loop takes them. It returns nil if that cannot be.
func (a *agent) openControl(run func(string, func(context.Context) error)) *control {
	if receipts, err := record.Read(a.cfg.State.Dir); err == nil && len(receipts) > 0 {
		a.lastIs(receipts[len(receipts)-1])
	}
	a.readKept()
	a.publish(nil)
	c, err := listen(a.cfg.State.Dir, a.log.Named("control"), a.status)
	if err != nil {
		a.log.Warn("commands cannot reach this agent", "error", err)
		return nil
	}
	run("control", c.Run)
	return c
}

// goOn takes over what an earlier agent has left: the process, the transaction, the
// claims.
func (a *agent) goOn(ctx context.Context) error {
	if err := a.process.Adopt(ctx); err != nil {
		return err
	}
	claims, err := a.recover(ctx)
	if err != nil {
		return err
	}
	return a.resume(ctx, claims)
}

// lockPause is how often the lock is asked for while a rollback has it.
const lockPause = 50 * time.Millisecond

// makeFolders refuses folders that others could write to, and creates the patch
// folder and the state folder if they are missing.
func makeFolders(cfg *config.Config) error {
	if err := cfg.CheckFolders(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Patch.Dir, 0o755); err != nil {
		return fmt.Errorf("cannot create patch.dir: %w", err)
	}
	if err := os.MkdirAll(cfg.State.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot create state.dir: %w", err)
	}
	return nil
}

// openState opens everything in the state folder; the lock comes first. purpose is
// empty for an agent, which waits for the end of a rollback that works without one.
func (a *agent) openState(ctx context.Context, purpose string) error {
	opts := applierOptions(a.cfg, a.log.Named("applier"))
	opts.Fault, opts.Purpose = a.fault, purpose
	for said := false; ; said = true {
		var err error
		if a.applier, err = applier.Open(opts); err == nil {
			break
		}
		locked, is := errors.AsType[*applier.LockedError](err)
		if !is || locked.Purpose == "" || purpose != "" || ctx.Err() != nil {
			return err
		}
		if !said {
			a.log.Info("waiting for the end of a "+locked.Purpose, "pid", locked.PID)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lockPause):
		}
	}
	var err error
	a.folder = watcher.NewFolder(folderOptions(a.cfg, a.log.Named("watcher")))
	if a.receipts, err = record.OpenReceipts(a.cfg.State.Dir); err != nil {
		a.closeState()
		return err
	}
	if a.clock, err = record.ReadClock(a.cfg.State.Dir); err != nil {
		a.closeState()
		return err
	}
	var changed bool
	a.installed, changed, err = record.LoadInstalled(a.cfg.State.Dir, a.cfg.Build, a.cfg.Region, a.cfg.Product)
	if err == nil && changed {
		err = a.installed.Save(a.cfg.State.Dir)
	}
	if err != nil {
		a.closeState()
	}
	return err
}

func (a *agent) closeState() {
	for _, p := range a.queue {
		p.close()
	}
	if a.clock != nil {
		a.saveClock()
	}
	if a.receipts != nil {
		a.receipts.Close()
	}
	a.applier.Close()
}

// recover goes on with the transaction that an earlier agent has left, when the
// process that it has left is taken over. It returns the claims for which nothing
// was begun.
func (a *agent) recover(ctx context.Context) ([]*watcher.Claim, error) {
	tx, err := a.applier.Recover(ctx, a.process)
	if err != nil {
		return nil, err
	}
	claims, err := a.folder.Resume()
	if err != nil || tx == nil {
		return claims, err
	}
	receipts, err := record.Read(a.cfg.State.Dir)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(receipts, func(r record.Receipt) bool { return r.ID == tx.Plan().ID }); i >= 0 {
		return claims, a.decided(ctx, tx, receipts[i])
	}
	at := slices.IndexFunc(claims, func(c *watcher.Claim) bool { return c.ID == tx.Plan().ID })
	if at < 0 {
		_, err = a.recovered(ctx, tx, nil)
		return claims, err
	}
	taken, err := a.recovered(ctx, tx, claims[at])
	if taken {
		claims = slices.Delete(claims, at, at+1)
	}
	return claims, err
}

// resume has the process started and goes on with the claims that an earlier agent
// has left, of which some may have their receipt already.
func (a *agent) resume(ctx context.Context, claims []*watcher.Claim) error {
	receipts, err := record.Read(a.cfg.State.Dir)
	if err != nil {
		return err
	}
	done := map[string]record.Receipt{}
	for _, r := range receipts {
		done[r.ID] = r
	}
	if a.trial == nil && !a.failed {
		a.process.Resume()
	}
	for _, c := range claims {
		if r, ok := done[c.ID]; ok {
			a.endings = append(a.endings, &ending{claim: c, receipt: r, receipted: true, recorded: true})
			continue
		}
		a.receive(ctx, c)
	}
	return nil
}

func applierOptions(cfg *config.Config, log hclog.Logger) applier.Options {
	return applier.Options{Root: cfg.Target.Root, State: cfg.State.Dir, Protect: cfg.Target.Protect, Guard: func() applier.Guarded { return guarded(cfg) }, Keep: cfg.State.Keep, Log: log}
}

// guarded are the agent's own files, its program too, by all their names as they are
// now, and the links that lead to them.
func guarded(cfg *config.Config) (g applier.Guarded) {
	paths := append([]string{cfg.State.Dir, cfg.Patch.Dir, cfg.Path}, cfg.Verify.Keys...)
	if program, err := os.Executable(); err == nil {
		paths = append(paths, program)
	}
	for _, socket := range cfg.Target.Sockets {
		if file := socket.File(); file != "" {
			paths = append(paths, file)
		}
	}
	for _, path := range paths {
		own, links := config.Names(path)
		g.Own, g.Links = append(g.Own, own...), append(g.Links, links...)
	}
	return g
}

// ownDescriptors are those that an agent has open of its own: its log, journal and record,
// what it watches, its sockets, and those that it keeps free for the end of the process.
const ownDescriptors = 16

func folderOptions(cfg *config.Config, log hclog.Logger) watcher.Options {
	limits := limitsOf(cfg)
	signed := len(cfg.Verify.Keys) > 0
	examine := manifest.Examine
	if signed { // until the signature holds, nothing is unpacked
		examine = manifest.ExamineHeaders
	}
	return watcher.Options{
		Dir:           cfg.Patch.Dir,
		Claims:        filepath.Join(cfg.State.Dir, claimsName),
		Patience:      time.Duration(cfg.Patch.Patience),
		MaxSize:       int64(cfg.Verify.MaxSize),
		NeedChecksum:  cfg.Verify.Require == config.RequireChecksum && !signed,
		NeedSignature: signed,
		// Each that waits is open, and applying one of them needs descriptors, too.
		MaxWaiting: min(cfg.Patch.MaxWaiting, max((descriptors()-ownDescriptors)/2, 1)), MaxWaitingSize: int64(cfg.Patch.MaxWaitingSize),
		KeepRejected: cfg.Patch.KeepRejected, KeepRejectedSize: int64(cfg.Patch.KeepRejectedSize),
		Free: func() (int64, error) {
			free, err := applier.Free(cfg.State.Dir)
			return free - spaceReserve, err
		},
		Examine: func(r io.ReaderAt, size int64) (watcher.Shape, error) {
			shape, err := examine(r, size, limits)
			return watcher.Shape(shape), err
		},
		Verify: func(ctx context.Context, r io.ReaderAt, size int64, s watcher.Sidecars) error {
			if signed {
				_, err := verifySignature(ctx, r, size, s.Minisig, cfg)
				return err
			}
			pkg, err := manifest.Open(r, size, limits)
			if err != nil {
				return err
			}
			return pkg.Verify(ctx)
		},
		Vouched: func(name string, s watcher.Sidecars) (found, unfinished bool) {
			found, err := manifest.Sidecars(s).Check(name, manifest.Sums{})
			return found, errors.Is(err, manifest.ErrSidecarUnfinished)
		},
		Signed: signature.IsWhole,
		Log:    log,
	}
}
