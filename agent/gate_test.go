package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"patchagent/agent/record"
	"patchagent/watcher"
)

// A clock that is set forward, as on a machine that knows the time only when it has
// reached a server, takes nothing of the time that a patch may wait.
func TestWaitedIsMeasured(t *testing.T) {
	a, p := &agent{}, &patch{claim: &watcher.Claim{Name: "a.zip"}}
	set := func(latest time.Time) {
		t.Helper()
		dir := t.TempDir()
		data, err := json.Marshal(map[string]time.Time{"latest": latest})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "clock.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if a.clock, err = record.ReadClock(dir); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, d time.Duration) {
		t.Helper()
		if got := a.waited(p); got < d || got > d+time.Hour {
			t.Errorf("%s: it has waited for %s, want %s", what, got, d)
		}
		if got := a.clock.Now().Sub(p.claim.WaitsSince); got < d || got > d+time.Hour {
			t.Errorf("%s: by the record it has waited for %s, want %s", what, got, d)
		}
	}
	now := time.Now()
	set(now)
	want("at first", 0)
	set(now.Add(1000 * time.Hour))
	want("the clock is set forward", 0)
	p.talk = talk{}
	set(now.Add(1003 * time.Hour))
	want("another agent, later", 3*time.Hour)
	set(now.Add(5000 * time.Hour))
	want("and set forward again", 3*time.Hour)
	p.talk = talk{}
	set(now)
	want("another agent, by whose clock it has not begun", 0)
}
