// Package watcher turns a drop folder into whole, claimed packages, and puts them
// away when their outcome is known.
//
// Events are hints, the folder is the truth. A Watcher only wakes its owner, from
// file system events and a slow poll; the owner then asks a Folder to Scan. So
// whatever happens to the events, a drop is found at the latest by the poll.
//
// A Scan looks at each drop and decides by a rule (rule.go) that knows nothing of
// files: is it whole, is somebody still writing it, is something missing beside it,
// has it stood still for too long? What is whole is claimed: opened once, copied
// from that descriptor into a private folder while it is hashed, and looked at once
// more. From then on only the copy counts. The original stays under its name until
// there is an outcome, so that an operator sees what waits and can withdraw it; a
// new file of the same name is a new drop.
//
// Whoever fills the folder takes little: a Scan claims no more than there is room and
// space for, in the order in which drops were first seen (scan.go); Prune removes the
// oldest that were rejected.
//
// Place moves the original to applied/ or rejected/, or puts the copy there if the
// original is gone; Release removes the copy. Both can be repeated after a crash.
package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// Watcher wakes its owner when something may have happened in a folder.
type Watcher struct {
	dir  string
	log  hclog.Logger
	wake chan struct{}
	poll chan time.Duration
	rate time.Duration
}

// New returns a Watcher for dir, which need not exist; Run makes it work.
func New(dir string, poll time.Duration, log hclog.Logger) *Watcher {
	return &Watcher{dir: dir, log: log, wake: make(chan struct{}, 1), poll: make(chan time.Duration), rate: poll}
}

// Wake is sent to when a scan is due. Wakes that come while one is unread are one.
func (w *Watcher) Wake() <-chan struct{} { return w.wake }

// SetPoll changes how often the owner is woken without an event, until ctx is done.
func (w *Watcher) SetPoll(ctx context.Context, poll time.Duration) {
	select {
	case w.poll <- poll:
	case <-ctx.Done():
	}
}

// Run watches until ctx is done. Where no events can be had it says so and goes
// on by the poll alone.
func (w *Watcher) Run(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("cannot watch the patch folder, looking at it every now and then; see fs.inotify.max_user_instances", "every", w.rate.String(), "error", err)
		notify = &fsnotify.Watcher{}
	} else {
		defer notify.Close()
	}
	f := follower{dir: w.dir, log: w.log, notify: notify, events: err == nil}
	tick := time.NewTicker(w.rate)
	defer tick.Stop()
	for {
		// First the watch, then the scan: nothing falls between the two.
		f.follow()
		w.wakeUp()
		if !w.sleep(ctx, &f, tick) {
			return nil
		}
	}
}

// sleep returns when something may have happened; false when ctx is done.
func (w *Watcher) sleep(ctx context.Context, f *follower, tick *time.Ticker) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case poll := <-w.poll:
			tick.Reset(poll)
		case event := <-f.notify.Events:
			if filepath.Clean(event.Name) == filepath.Clean(w.dir) {
				if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
					f.drop() // a new one may well have the old one's number
				}
				return true
			}
			w.wakeUp()
		case err := <-f.notify.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.log.Warn("trouble with file system events", "error", err)
			}
			return true
		case <-tick.C:
			return true
		}
	}
}

func (w *Watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// follower keeps the watch on the folder that has the name now.
type follower struct {
	dir     string
	log     hclog.Logger
	notify  *fsnotify.Watcher
	events  bool
	watched os.FileInfo // nil: none
	missing bool        // and that was logged
}

// follow adds the watch if the folder is not the one that is watched: it was
// deleted and made again, renamed, mounted over.
func (f *follower) follow() {
	now, err := os.Lstat(f.dir)
	if err == nil && !now.IsDir() {
		err = fmt.Errorf("%s is a link, or no folder", f.dir) // nothing is taken from what it leads to
	}
	if err != nil {
		if !f.missing {
			f.log.Warn("the patch folder is gone; waiting for it to come back", "folder", f.dir, "error", err)
		}
		f.missing = true
		f.drop()
		return
	}
	if f.missing {
		f.log.Info("the patch folder is back", "folder", f.dir)
		f.missing = false
	}
	if !f.events || f.watched != nil && os.SameFile(f.watched, now) {
		return
	}
	f.drop()
	if err := f.notify.Add(f.dir); err != nil {
		f.log.Warn("cannot watch the patch folder, looking at it every now and then; see fs.inotify.max_user_watches", "folder", f.dir, "error", err)
		return
	}
	f.watched = now
}

func (f *follower) drop() {
	if f.watched != nil {
		_ = f.notify.Remove(f.dir) // it is gone already where the folder is
		f.watched = nil
	}
}
