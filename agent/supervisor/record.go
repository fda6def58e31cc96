package supervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
)

// recorded is the content of the state file. A number alone would not do: it may
// belong to another process by the time it is read.
type recorded struct {
	PID      int    `json:"pid"`
	Start    uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Boot     string `json:"boot"`
	Session  int    `json:"session"`
	Stopping bool   `json:"stopping"` // it has been told to end, or is about to be
}

// write replaces the state file at once. It is about this boot only, so it need
// not survive a power loss.
func (r recorded) write(path string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readRecord returns the zero record if there is none, or if it is torn, which
// only a power loss can have done: then nothing of that boot is left.
func readRecord(path string) (recorded, error) {
	if path == "" {
		return recorded{}, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return recorded{}, nil
	}
	if err != nil {
		return recorded{}, err
	}
	var r recorded
	if json.Unmarshal(data, &r) != nil || r.PID <= 1 {
		return recorded{}, nil
	}
	return r, nil
}

func removeState(path string) {
	if path != "" {
		_ = os.Remove(path)
	}
}
