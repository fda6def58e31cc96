package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"patchagent/watcher"
)

// noteWaiting logs that a drop waits, once for each reason.
func (a *agent) noteWaiting(name, why, detail string) {
	if a.waiting[name] == why {
		return
	}
	a.waiting[name] = why
	a.log.Info("patch waiting", "patch", name, "reason", why, "detail", detail)
}

// noteQueue logs why what is verified has not its turn.
func (a *agent) noteQueue() {
	for _, p := range a.queue {
		switch {
		case a.failed:
			a.noteWaiting(p.claim.Name, "failed", "a patch could not be undone, and "+untilMended)
		case a.trial != nil && a.trial.patch != p:
			a.noteWaiting(p.claim.Name, "probation", a.trial.receipt.Patch+" is on probation")
		case !a.held && a.trial == nil && a.queue[0] != p && a.queue[0].talk.waits():
			a.noteWaiting(p.claim.Name, behindGate, "it comes after "+a.queue[0].claim.Name+", which the gate does not let go yet")
		}
	}
}

// mostLines is how many of the same are told of one by one. When more drops than that
// wait for the same, a line says how many, and the next when they are twice as many.
const mostLines = 20

// noteAll logs what is to be noted about a package or the tree: of many the first ones.
func noteAll(log func(string, ...any), about, patch string, notes []string) {
	for _, note := range notes[:min(len(notes), mostLines)] {
		log(about, "patch", patch, "note", note)
	}
	if more := len(notes) - mostLines; more > 0 {
		log(about, "patch", patch, "note", fmt.Sprintf("and %d more like these", more))
	}
}

// noteCrowd logs that drops wait for the same.
func (a *agent) noteCrowd(why string, drops []watcher.Waiting) {
	if len(drops) <= mostLines {
		delete(a.crowds, why)
	}
	told := 0
	for _, w := range drops {
		if a.waiting[w.Name] == why {
			told++
		}
	}
	for _, w := range drops {
		if a.waiting[w.Name] == why {
			continue
		}
		if told++; told <= mostLines {
			a.noteWaiting(w.Name, why, w.Why)
		}
		a.waiting[w.Name] = why
	}
	if n := len(drops); n > mostLines && n >= 2*a.crowds[why] {
		a.crowds[why] = n
		a.log.Info("many patches waiting", "patches", n, "reason", why)
	}
}

// noteBeyond logs that there are drops that are not even looked at.
func (a *agent) noteBeyond(n int) {
	const why = "beyond"
	if n == 0 {
		delete(a.crowds, why)
	} else if n >= 2*a.crowds[why] {
		a.crowds[why] = n
		a.log.Warn("more patches in the folder than are looked at; the others come later", "patches", n)
	}
}

// noteKeys logs when a key can no longer be used, and when it can again. They are
// looked at as often as the folder is without an event.
func (a *agent) noteKeys(now time.Time) {
	if now.Sub(a.keysSeen) < time.Duration(a.cfg.Patch.Poll) {
		return
	}
	a.keysSeen = now
	_, err := a.cfg.ReadKeys()
	if noDescriptor(err) {
		return
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble == a.unusable {
		return
	}
	a.unusable = trouble
	if trouble == "" && len(a.cfg.Verify.Keys) > 0 {
		a.log.Info("the keys of verify.keys can be used again")
	}
	for line := range strings.Lines(trouble) {
		a.log.Error("a key cannot be used, and nothing that is signed with it is let in", "error", strings.TrimSuffix(line, "\n"))
	}
}

// noteFound logs what of the folder's state is news.
func (a *agent) noteFound(found watcher.Found) {
	a.held, a.found = found.Hold, found
	waits := map[string]bool{}
	crowds := map[string][]watcher.Waiting{}
	for _, w := range found.Waiting {
		waits[w.Name] = true
		crowds[w.Reason] = append(crowds[w.Reason], w)
	}
	for _, p := range a.queue {
		waits[p.claim.Name] = true
	}
	for _, name := range found.Held {
		waits[name] = true
		crowds["hold"] = append(crowds["hold"], watcher.Waiting{Name: name, Why: "the file HOLD is in the patch folder"})
	}
	maps.DeleteFunc(a.waiting, func(name, _ string) bool { return !waits[name] })
	for _, why := range []string{"hold", watcher.NotWhole, watcher.NoProof, watcher.NoRoom, watcher.NoSpace} {
		a.noteCrowd(why, crowds[why])
	}
	a.noteBeyond(found.Beyond)
	a.noteIgnored(found.Ignored, found.MoreIgnored)
	for _, claim := range found.Gone {
		if a.trial != nil && a.trial.claim == claim || slices.ContainsFunc(a.endings, func(e *ending) bool { return e.claim == claim }) {
			continue // in place already, or decided and still to be put away
		}
		delete(a.waiting, claim.Name)
		a.log.Info("patch withdrawn", "patch", claim.Name, "id", claim.ID, "detail", "its file was removed from the patch folder before its turn")
		a.queue = slices.DeleteFunc(a.queue, func(p *patch) bool {
			if p.claim.ID != claim.ID {
				return false
			}
			p.close()
			return true
		})
		a.unread = slices.DeleteFunc(a.unread, func(u *unread) bool { return u.claim == claim })
		if err := a.folder.Release(claim); err != nil {
			a.log.Warn("cannot remove the copy of a withdrawn patch", "patch", claim.Name, "error", err)
		}
	}
}
