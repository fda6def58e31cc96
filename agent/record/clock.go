package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"patchagent/applier/journal"
)

const clockName = "clock.json"

// Clock is the time that a package's `expires` is held against. It never goes back,
// neither while it runs nor across restarts and power losses as far as it was saved:
// a machine whose clock was set back, or has lost its battery, does not let an
// expired package in. Only one goroutine may use it.
type Clock struct {
	path   string
	latest time.Time // with the monotonic time at which it was
	seen   time.Time // by the system's clock then
	saved  time.Time
}

// clockFile is clock.json.
type clockFile struct {
	Latest time.Time `json:"latest"`
}

// ReadClock reads the time that was saved in a state folder, and writes nothing. A
// file that cannot be read is an error: to guess would be to go back.
func ReadClock(dir string) (*Clock, error) {
	c := &Clock{path: filepath.Join(dir, clockName)}
	data, err := os.ReadFile(c.path)
	var f clockFile
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the latest time that was seen: %w; if %s is damaged, see that this machine's clock is right and remove the file", err, c.path)
	}
	c.latest, c.seen = f.Latest, time.Now()
	return c, nil
}

// Now is the system's time, or if that has gone back, the latest that was seen and
// what has passed since.
func (c *Clock) Now() time.Time {
	now := time.Now()
	wall := now.Round(0)
	if after := c.latest.Add(now.Sub(c.seen)); after.After(wall) {
		wall = after
	}
	c.latest, c.seen = wall, now
	return wall
}

// Ahead says by how much Now is ahead of the system's clock, and how to say so; ""
// if that is no more than a correction.
func (c *Clock) Ahead() string {
	const correction = time.Minute
	now, system := c.Now(), time.Now()
	if now.Sub(system) < correction {
		return ""
	}
	return fmt.Sprintf("this agent has seen a time as late as %s, and the system's clock says %s; if the later one was wrong, stop the agent, remove %s and start it again",
		now.UTC().Format(time.RFC3339), system.UTC().Format(time.RFC3339), c.path)
}

// Save makes Now durable.
func (c *Clock) Save() error {
	c.saved = c.Now()
	data, err := json.Marshal(clockFile{Latest: c.saved})
	if err != nil {
		return err
	}
	if err := journal.WriteFile(c.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot record the time: %w", err)
	}
	return nil
}

// Due says whether the last Save is longer ago than every.
func (c *Clock) Due(every time.Duration) bool { return c.Now().Sub(c.saved) >= every }
