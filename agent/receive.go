package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"patchagent/manifest"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// unread is a claim whose copy could not be read for a reason that is not the
// package's: no descriptor was left, say. It is tried again, and is not refused.
type unread struct {
	claim   *watcher.Claim
	since   time.Time
	next    time.Time
	trouble string // as it was last logged
}

// receive verifies a claim and puts it into the queue, or refuses it.
func (a *agent) receive(ctx context.Context, claim *watcher.Claim) {
	u := &unread{claim: claim, since: time.Now()}
	if !a.read(ctx, u) {
		a.unread = append(a.unread, u)
	}
}

// read says whether that is done.
func (a *agent) read(ctx context.Context, u *unread) bool {
	began, claim := time.Now(), u.claim
	if began.Before(u.next) {
		return false
	}
	if claim.Reject != nil {
		a.end(claim, nil, refuse(receiptOf(claim, checked{}, a.installed.Build, began), claim.Reject))
		return true
	}
	var known checked
	f, err := claim.Open()
	if err == nil {
		known, err = verify(ctx, f, claim.Name, sumsOf(claim), manifest.Sidecars(claim.Sidecars), a.cfg, a.installed)
		if err != nil {
			_ = f.Close()
		}
	}
	if ctx.Err() != nil {
		if err == nil {
			_ = f.Close()
		}
		return true // the claim is found again at the next start
	}
	if err == nil {
		noteAll(a.log.Warn, "about the package", claim.Name, known.pkg.Notes)
		p := &patch{claim: claim, file: f, checked: known}
		p.rest()
		claim.ForgetLists()
		a.queue = append(a.queue, p)
		slices.SortStableFunc(a.queue, func(x, y *patch) int { return cmp.Compare(x.manifest().Build, y.manifest().Build) })
		return true
	}
	if _, is := reason.Of(err); is {
		a.end(claim, nil, refuse(receiptOf(claim, known, a.installed.Build, began), err))
		return true
	}
	u.next = began.Add(time.Duration(a.cfg.Patch.Poll))
	if u.trouble != err.Error() {
		u.trouble = err.Error()
		a.log.Error("cannot read the copy of a patch, trying again", "patch", claim.Name, "id", claim.ID, "error", err)
	}
	return false
}

// unreadFor is how long the queue waits for claims that cannot be read: one of them
// may be of an older build than all that could be. Patience has an end there, too.
func (a *agent) unreadFor(now time.Time) time.Duration {
	var left time.Duration
	for _, u := range a.unread {
		left = max(left, u.since.Add(time.Duration(a.cfg.Patch.Patience)).Sub(now))
	}
	return left
}

// prune removes the oldest rejected drops, if there are new ones.
func (a *agent) prune() {
	if !a.pruning {
		return
	}
	a.pruning = false
	pruned, err := a.folder.Prune()
	if err != nil && a.unpruned != err.Error() {
		a.unpruned = err.Error()
		a.log.Error("cannot prune patch/rejected", "error", err)
	}
	if err == nil {
		a.unpruned = ""
	}
	if pruned.Drops > 0 {
		a.log.Info("old rejected patches removed", "patches", pruned.Drops, "bytes", pruned.Bytes)
	}
}
