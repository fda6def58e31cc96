//go:build linux

package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// never is a poll that no test lives to see: what wakes is an event.
const never = time.Hour

// watching is a Watcher at work, with the log it writes.
type watching struct {
	t   *testing.T
	dir string
	*Watcher
}

func watch(t *testing.T, dir string, poll time.Duration) *watching {
	t.Helper()
	w := &watching{t: t, dir: dir, Watcher: New(dir, poll, hclog.NewNullLogger())}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// until reads wakes until one comes after which the condition holds.
func (w *watching) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case <-w.Wake():
			if holds() {
				return
			}
		case <-deadline:
			w.t.Fatalf("%s: no wake", what)
		}
	}
}

func (w *watching) wakes(what string) {
	w.t.Helper()
	w.until(what, func() bool { return true })
}

// asleep returns when Run sleeps until the next event: the poll will not wake it.
// Wakes from before are read.
func (w *watching) asleep() {
	w.t.Helper()
	w.SetPoll(w.t.Context(), never)
	select {
	case <-w.Wake():
	default:
	}
}

func (w *watching) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestEvents wake, with no help of the poll.
func TestEvents(t *testing.T) {
	for what, do := range map[string]func(path string, f *os.File) error{
		"created":            func(path string, _ *os.File) error { return os.WriteFile(path+"3", nil, 0o644) },
		"written":            func(_ string, f *os.File) error { _, err := f.WriteString("x"); return err },
		"cut":                func(_ string, f *os.File) error { return f.Truncate(0) },
		"renamed in here":    func(path string, _ *os.File) error { return os.Rename(path, path+"2") },
		"renamed into place": func(path string, _ *os.File) error { return os.Rename(filepath.Dir(path)+".outside", path) },
		"renamed away":       func(path string, _ *os.File) error { return os.Rename(path, filepath.Dir(path)+".outside") },
		"touched":            func(path string, _ *os.File) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
		"linked":             func(path string, _ *os.File) error { return os.Link(path, path+"2") },
		"removed":            func(path string, _ *os.File) error { return os.Remove(path) },
		"a folder made":      func(path string, _ *os.File) error { return os.Mkdir(path+"2", 0o755) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "patch")
			path := filepath.Join(dir, "a.zip")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+".outside", nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("before"); err != nil {
				t.Fatal(err)
			}
			w := watch(t, dir, never)
			w.wakes("at the start")
			w.asleep()
			w.do(do(path, f))
			w.wakes(what)
		})
	}
}

// TestNoBusyLoop: where nothing happens, nothing wakes.
func TestNoBusyLoop(t *testing.T) {
	w := watch(t, t.TempDir(), never)
	w.wakes("at the start")
	select {
	case <-w.Wake():
		t.Error("woken, and nothing has happened")
	case <-time.After(100 * time.Millisecond):
	}
}

// TestPoll wakes without events, as often as it is told to.
func TestPoll(t *testing.T) {
	w := watch(t, filepath.Join(t.TempDir(), "missing"), never)
	w.wakes("at the start")
	w.SetPoll(t.Context(), time.Millisecond)
	for range 5 {
		w.wakes("by the poll")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	New("x", never, hclog.NewNullLogger()).SetPoll(gone, time.Second) // comes back though nobody runs
}

// alive lets the poll find the folder, then wants events from it: more of them than
// can be left from before.
func (w *watching) alive() {
	w.t.Helper()
	w.SetPoll(w.t.Context(), time.Millisecond)
	for range 3 { // the first may be from before, the second from a look under way
		w.wakes("by the poll")
	}
	w.asleep()
	for range 30 {
		w.do(os.WriteFile(filepath.Join(w.dir, "alive.zip"), nil, 0o644))
		w.wakes("by an event")
	}
}

// TestFolderComesAndGoes: the watch follows the name, at the latest by the poll.
func TestFolderComesAndGoes(t *testing.T) {
	const poll = 5 * time.Millisecond
	for what, happens := range map[string]func(w *watching){
		"missing at the start": func(w *watching) {
			w.do(os.Mkdir(w.dir, 0o755))
		},
		"deleted and made again": func(w *watching) {
			w.do(os.Mkdir(w.dir, 0o755))
			w.alive()
			w.do(os.RemoveAll(w.dir))
			w.wakes("deleted")
			w.do(os.Mkdir(w.dir, 0o755))
		},
		"renamed away and replaced": func(w *watching) {
			w.do(os.Mkdir(w.dir, 0o755))
			w.alive()
			w.do(os.Mkdir(w.dir+".new", 0o755))
			w.do(os.Rename(w.dir, w.dir+".old"))
			w.do(os.Rename(w.dir+".new", w.dir))
		},
		"its parent renamed away and replaced": func(w *watching) { // no event tells of it
			w.do(os.Mkdir(w.dir, 0o755))
			w.alive()
			parent := filepath.Dir(w.dir)
			w.do(os.MkdirAll(parent+".new/patch", 0o755))
			w.do(os.Rename(parent, parent+".old"))
			w.do(os.Rename(parent+".new", parent))
		},
		"renamed away and back": func(w *watching) {
			w.do(os.Mkdir(w.dir, 0o755))
			w.alive()
			w.do(os.Rename(w.dir, w.dir+".old"))
			w.wakes("away")
			w.do(os.Rename(w.dir+".old", w.dir))
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := watch(t, filepath.Join(t.TempDir(), "parent", "patch"), poll)
			w.do(os.Mkdir(filepath.Dir(w.dir), 0o755))
			w.wakes("at the start")
			happens(w)
			w.alive()
		})
	}
}

// TestReplacedInOneGo removes the folder and makes it again before anybody has
// looked. The new one may have the old one's number on the disk; it is watched.
func TestReplacedInOneGo(t *testing.T) {
	w := watch(t, filepath.Join(t.TempDir(), "patch"), 5*time.Millisecond)
	w.do(os.Mkdir(w.dir, 0o755))
	for range 20 {
		w.alive()
		w.do(os.RemoveAll(w.dir))
		w.do(os.Mkdir(w.dir, 0o755))
	}
	w.alive()
}

// TestForgets the watch of a folder that is deleted, and does not rely on the next
// one's number being another.
func TestForgets(t *testing.T) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	w := New(t.TempDir(), never, hclog.NewNullLogger())
	f := follower{dir: w.dir, log: w.log, notify: notify, events: true}
	f.follow()
	if err := errors.Join(os.Remove(w.dir), os.Mkdir(w.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(never)
	defer tick.Stop()
	for f.watched != nil {
		if !w.sleep(ctx, &f, tick) {
			t.Fatal("it still believes in its watch")
		}
	}
}

// TestManyFiles: however many come, all are found.
func TestManyFiles(t *testing.T) {
	s := newStage(t)
	w := watch(t, s.dir, 50*time.Millisecond)
	const many = 100
	zip := schema2("many")
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() {
		for i := range many {
			name := filepath.Join(s.dir, fmt.Sprintf("%03d", i))
			if os.WriteFile(name+".tmp", zip, 0o644) != nil || os.Rename(name+".tmp", name+".zip") != nil {
				return
			}
			for range 20 { // and much that is of no interest
				_ = os.WriteFile(name+".txt", zip, 0o644)
			}
		}
	})
	claimed := map[string]int{}
	w.until("all of them", func() bool {
		for _, c := range s.scan().Claims {
			claimed[c.Name]++
		}
		return len(claimed) == many
	})
	for name, n := range claimed {
		if n != 1 {
			t.Errorf("%s is claimed %d times", name, n)
		}
	}
}

// TestNothingStays: when Run has ended, so have its goroutines.
func TestNothingStays(t *testing.T) {
	dir := t.TempDir()
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		w := New(dir, never, hclog.NewNullLogger())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		<-w.Wake()
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !strings.Contains(string(stacks), "fsnotify") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still running:\n%s", stacks)
		}
	}
}

// TestScansWhileWatching is a Watcher and a Folder at work together: a drop is
// claimed by the event of its arrival, also when its last write comes before its close.
func TestScansWhileWatching(t *testing.T) {
	s := newStage(t)
	s.opts.Now = time.Now
	s.Configure(s.opts)
	w := watch(t, s.dir, never)
	w.wakes("at the start")
	zip := schema1("together")
	again := time.NewTimer(never)
	defer again.Stop()
	for n, arrive := range []func(name string){
		func(name string) { s.drop(name, zip) },
		func(name string) {
			s.put(name, zip)
			s.put(name+".sha256", sumLine(name, zip))
		},
		func(name string) {
			s.must(os.WriteFile(s.path(name), zip, 0o644))
			s.must(os.WriteFile(s.path(name+".sha256"), sumLine(name, zip), 0o644))
		},
	} {
		arrive(fmt.Sprintf("%d.zip", n))
		deadline := time.After(2 * time.Minute)
		for claimed := false; !claimed; {
			select {
			case <-w.Wake():
			case <-again.C:
			case <-deadline:
				t.Fatalf("way %d: not claimed", n)
			}
			found := s.scan()
			claimed = len(found.Claims) == 1 && found.Claims[0].Reject == nil
			if found.Again > 0 {
				again.Reset(found.Again)
			}
		}
	}
}
