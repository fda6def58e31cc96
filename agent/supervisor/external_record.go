package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// markSuffix is of the file beside the state file that is there while the service is
// stopped here: should this agent end, the next one has to start it. It is empty, or has
// the time of the stop that has failed.
const markSuffix = ".stopped"

// mark makes durable whether the service is stopped here. Without a record the next
// agent takes it for one that its manager has stopped.
func (x *External) mark(stopped bool) { x.record(stopped, time.Time{}) }

func (x *External) record(stopped bool, lingers time.Time) {
	if x.stopped == stopped && x.lingers.Equal(lingers) {
		return
	}
	x.stopped, x.lingers = stopped, lingers
	path := x.opts.StateFile + markSuffix
	text := ""
	if !lingers.IsZero() {
		text = lingers.Format(time.RFC3339Nano)
	}
	switch {
	case !stopped:
		x.owed = false
		if x.opts.StateFile != "" {
			_ = os.Remove(path)
		}
	case x.opts.StateFile != "":
		if err := writeSynced(path, text); err != nil {
			x.log.Warn("cannot put on record that the service is stopped for a patch; should the agent end now, the next one would not start it", "error", err)
		}
	}
}

// marked is what is on record. A time that makes no sense is as none: nobody knows what
// the service stands on then.
func (x *External) marked() (stopped bool, lingers time.Time) {
	if x.opts.StateFile == "" {
		return false, time.Time{}
	}
	text, err := os.ReadFile(x.opts.StateFile + markSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, time.Time{}
	}
	if at, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
		// From now on it is measured, whatever becomes of the clock; it may have been set back.
		lingers = time.Now().Add(-max(0, time.Since(at)))
	}
	return true, lingers
}

// writeSynced writes a file, durably, but not whole: it may be found empty.
func writeSynced(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if dir, openErr := os.Open(filepath.Dir(path)); openErr == nil { // other systems cannot sync a folder
		_ = dir.Sync()
		_ = dir.Close()
	}
	return err
}
