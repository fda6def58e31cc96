package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// pollEvery is how often the file is looked at where events are missing: network
// file systems, exhausted watches.
const pollEvery = 2 * time.Second

// settleTime is how long a change may go on before it is looked at: an editor or
// a shell first empties the file and then writes it.
const settleTime = 20 * time.Millisecond

// Watcher wakes its owner when the file may have changed. The owner asks a
// Reloader whether it has.
type Watcher struct {
	path string
	log  hclog.Logger
	wake chan struct{}
	poll time.Duration
}

// Watch returns a Watcher for the file at path; Run makes it work.
func Watch(path string, log hclog.Logger) *Watcher {
	return &Watcher{path: path, log: log, wake: make(chan struct{}, 1), poll: pollEvery}
}

// C wakes the owner. Wakes that come while one is unread are one.
func (w *Watcher) C() <-chan struct{} { return w.wake }

// Run watches until ctx is done. It watches the file's folder, since a rename
// over the file, or a link that is pointed elsewhere, ends a watch of the file.
func (w *Watcher) Run(ctx context.Context) error {
	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	settled := time.NewTimer(0)
	defer settled.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if notify, err := fsnotify.NewWatcher(); err != nil {
		w.log.Warn("cannot watch agent.toml, looking at it every now and then", "error", err)
	} else {
		defer notify.Close()
		if err := notify.Add(filepath.Dir(w.path)); err != nil {
			w.log.Warn("cannot watch the folder of agent.toml, looking at it every now and then", "error", err)
		}
		events, errs = notify.Events, notify.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events:
			if w.concerns(event) {
				settled.Reset(settleTime)
			}
			continue
		case <-errs:
		case <-settled.C:
		case <-poll.C:
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// concerns says whether the event can have changed the file. Writes to its
// neighbours, such as a log, cannot; a new or a removed neighbour can, since the
// file may be a link that leads through it.
func (w *Watcher) concerns(event fsnotify.Event) bool {
	return event.Op&^(fsnotify.Write|fsnotify.Chmod) != 0 || filepath.Base(event.Name) == filepath.Base(w.path)
}

// absentTime is how long a file may be missing, empty or unreadable before that is
// told: while it is being replaced it is so for a moment.
const absentTime = 2 * time.Second

// Reloader reads a file again and says whether its content has changed. Only one
// goroutine may use it.
type Reloader struct {
	path   string
	keys   []string          // of the last good one
	seen   [sha256.Size]byte // of the content that was last answered for
	barred bool              // and it was not taken for who may have written it
	absent time.Time         // since when there has been no content
	told   bool              // of its absence
}

// NewReloader returns a Reloader for the file that c was loaded from; a change
// since then is found at the first Reread.
func NewReloader(c *Config) *Reloader {
	return &Reloader{path: c.Path, keys: c.Verify.Keys, seen: c.sum}
}

// Reread returns the new configuration if the file's content has changed since
// the last call, and nil if not. An error is returned once for the content that
// it is about. So is content that others than this user and root may have put there,
// by any folder or link on the way: who can do that could run commands as this user. A
// file that is missing, empty or unreadable is taken for one that is just being
// replaced, and is an error, once, if a later call finds it still so after absentTime.
func (r *Reloader) Reread() (*Config, error) {
	path, barred := ownWay("agent.toml", r.path)
	if barred != nil {
		path = r.path // to see whether there is anything new at all
	}
	data, err := ReadFile(path, maxFile)
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("%s is empty", r.path)
	}
	if err != nil {
		if r.absent.IsZero() {
			r.absent = time.Now()
		}
		if r.told || time.Since(r.absent) < absentTime {
			return nil, nil
		}
		r.told, r.seen = true, [sha256.Size]byte{} // it is answered for again when it is back
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	r.absent, r.told = time.Time{}, false
	sum := sha256.Sum256(data)
	if sum == r.seen && (barred != nil || !r.barred) {
		return nil, nil
	}
	r.seen, r.barred = sum, barred != nil
	if barred != nil {
		return nil, fmt.Errorf("%s is not taken while the agent runs: %w", r.path, barred)
	}
	c, err := parse(r.path, data)
	if err == nil {
		err = c.checkKeys(r.keys)
	}
	if err != nil {
		return nil, err
	}
	r.keys = c.Verify.Keys
	return c, nil
}

// Again has the next Reread answer for the file's content once more: what it names
// may have changed.
func (r *Reloader) Again() { r.seen = [sha256.Size]byte{} }

// Changed compares two configurations: the keys that take effect at once or at the
// process's next start, and those that need a restart of the agent. Where the service
// is another manager's in one and the agent's own in the other, that is so for all of
// [target]: half of the one and half of the other would be no service.
func Changed(before, after *Config) (soon, later []string) {
	was, is := before.fields(), after.fields()
	for i := range is {
		switch {
		case reflect.DeepEqual(was[i].value, is[i].value):
		case is[i].when == restart || handedOver(before, after) && isTarget(is[i].key):
			later = append(later, is[i].key)
		default:
			soon = append(soon, is[i].key)
		}
	}
	if !slices.Equal(before.Target.Sockets, after.Target.Sockets) {
		later = append(later, socketKey)
	}
	return soon, later
}

// KeepFixed takes back, from the configuration in force, the keys that need a
// restart of the agent (see Changed).
func (c *Config) KeepFixed(inForce *Config) {
	if handedOver(inForce, c) {
		c.Target = inForce.Target
	}
	old := inForce.fields()
	for i, f := range c.fields() {
		if f.when == restart {
			reflect.ValueOf(f.value).Elem().Set(reflect.ValueOf(old[i].value).Elem())
		}
	}
	c.Target.Sockets = inForce.Target.Sockets
}

// handedOver says whether the service has passed from the agent to another manager,
// or back.
func handedOver(before, after *Config) bool {
	return before.Target.External.Set != after.Target.External.Set
}

func isTarget(key string) bool { return strings.HasPrefix(key, "target.") }
