package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func clockAt(t *testing.T, dir string) *Clock {
	t.Helper()
	c, err := ReadClock(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// setClock puts a time on record as an earlier agent would have.
func setClock(t *testing.T, dir string, latest time.Time) {
	t.Helper()
	c := clockAt(t, dir)
	c.latest, c.seen = latest, time.Now()
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	c := clockAt(t, dir)
	if d := time.Since(c.Now()); d.Abs() > time.Minute || c.Ahead() != "" {
		t.Errorf("a new clock is %s off: %s", d, c.Ahead())
	}
	if !c.Due(time.Hour) {
		t.Error("a clock that was never saved is not due")
	}
	if err := c.Save(); err != nil || c.Due(time.Hour) {
		t.Error(err)
	}
	// The system's clock was ahead when it was saved, and is right again now.
	future := time.Now().Add(1000 * time.Hour)
	setClock(t, dir, future)
	c = clockAt(t, dir)
	first := c.Now()
	if first.Before(future) || first.After(future.Add(time.Minute)) {
		t.Errorf("the clock went back to %s", first)
	}
	if second := c.Now(); second.Before(first) {
		t.Errorf("%s comes before %s", second, first)
	}
	if why := c.Ahead(); !strings.Contains(why, filepath.Join(dir, clockName)) {
		t.Errorf("it does not say what to do: %q", why)
	}
	// Time that it has seen is the past of a clock that is right.
	setClock(t, dir, time.Now().Add(-1000*time.Hour))
	if d := time.Since(clockAt(t, dir).Now()); d > time.Minute {
		t.Errorf("it stands still, %s ago", d)
	}
}

// Within one run too: the monotonic clock goes on when the system's is set back.
func TestClockGoesOn(t *testing.T) {
	c := clockAt(t, t.TempDir())
	c.latest, c.seen = time.Now().Add(time.Hour), time.Now().Add(-time.Minute) // a minute ago it was an hour later
	want := time.Now().Add(time.Hour + time.Minute)
	if got := c.Now(); got.Before(want.Add(-30*time.Second)) || got.After(want.Add(30*time.Second)) {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestDamagedClock(t *testing.T) {
	dir := t.TempDir()
	for _, damaged := range []string{"", "x", `{"latest": "yesterday"}`} {
		if err := os.WriteFile(filepath.Join(dir, clockName), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadClock(dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%q: %v", damaged, err)
		}
	}
}
