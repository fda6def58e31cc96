package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// Where no new file can be made, the record of a process takes the place of the last
// one's.
func TestRecordOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "process.json")
	first, second := recorded{PID: 11, Boot: "b", Cgroup: strings.Repeat("c", recordSize)}, recorded{PID: 12, Boot: "b", Stopping: true}
	if err := first.write(path); err != nil {
		t.Fatal(err)
	}
	removeState(path)
	if r, err := readRecord(path); err != nil || r.PID != 0 {
		t.Errorf("after its end: %+v, %v", r, err)
	}
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := second.write(path); err != nil {
		t.Fatal(err)
	}
	if r, err := readRecord(path); err != nil || r.PID != 12 || !r.Stopping {
		t.Errorf("%+v, %v", r, err)
	}
	removeState(path)
	if r, err := readRecord(path); err != nil || r.PID != 0 {
		t.Errorf("after the end of the second: %+v, %v", r, err)
	}
}

// What an adopted process has printed for an earlier agent is its own.
func TestTailOfAnAdoptedProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("of another\nits own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   []int64
		want string
	}{{[]int64{11}, "its own"}, {[]int64{99}, "of another\nits own"}, {nil, "of another\nits own"}} {
		s := New(Options{Output: path}, hclog.NewNullLogger())
		s.written.resume(s.opts, c.at)
		if got := s.Tail(); got != c.want {
			t.Errorf("%v: %q", c.at, got)
		}
	}
}
