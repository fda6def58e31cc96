package supervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"
)

// recorded is the content of the state file. A number alone would not do: it may
// belong to another process by the time it is read.
type recorded struct {
	PID      int    `json:"pid"`
	Start    uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Boot     string `json:"boot"`
	Session  int    `json:"session"`
	Stopping bool   `json:"stopping"` // it has been told to end, or is about to be

	// What belongs to it: the group that was made for it, whose leader another process
	// may have followed as the main one (0: the process itself), and its mark.
	Leader      int    `json:"leader,omitempty"`
	LeaderStart uint64 `json:"leader_start,omitempty"`
	Invocation  string `json:"invocation,omitempty"`
	Cgroup      string `json:"cgroup,omitempty"`

	Ready    bool          `json:"ready,omitempty"`    // it has said READY=1
	Waited   bool          `json:"waited,omitempty"`   // for that, by an agent that took it over, and in vain
	Watchdog time.Duration `json:"watchdog,omitempty"` // it has to say WATCHDOG=1 so often

	Written []int64 `json:"written,omitempty"` // where its part of each output file begins
}

// recordSize is the size of the state file, filled up with spaces, so that a record
// of a later process finds room in it on a full disk.
const recordSize = 512

// write replaces the state file at once. It is about this boot only, so it need
// not survive a power loss. On a full disk it is overwritten instead.
func (r recorded) write(path string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	data = padded(data)
	err = os.WriteFile(path+".new", data, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new")
		if overwrite(path, data) == nil {
			return nil
		}
	}
	return err
}

func padded(data []byte) []byte {
	return append(data, strings.Repeat(" ", max(0, recordSize-1-len(data)))+"\n"...)
}

// overwrite replaces the content of a file that is there, which stays as it was if
// there is no room. It becomes no shorter: what is longer than data is filled up with
// spaces.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(overwriteFile(f, data), f.Close())
}

func overwriteFile(f *os.File, data []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := int(info.Size())
	data = append(data, strings.Repeat(" ", max(0, size-len(data)))...)
	if _, err := f.WriteAt(data[size:], info.Size()); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	_, err = f.WriteAt(data[:size], 0)
	return err
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

// removeState takes the process off the record, and keeps the room for the next one.
func removeState(path string) {
	if path != "" {
		_ = overwrite(path, padded([]byte("{}")))
	}
}
