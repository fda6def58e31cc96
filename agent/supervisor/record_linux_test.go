package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A record that there is no room for leaves the last one as it is.
func TestRecordTooLongForTheDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("memory", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("mounting is not possible here: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	path := filepath.Join(dir, "process.json")
	short, long := recorded{PID: 11, Boot: "b"}, recorded{PID: 12, Boot: "b", Cgroup: strings.Repeat("c", 8<<10)}
	if err := short.write(path); err != nil {
		t.Fatal(err)
	}
	if err := long.write(path); err == nil {
		t.Error("it is on record, they say")
	}
	if r, err := readRecord(path); err != nil || r.PID != 11 {
		t.Errorf("%+v, %v", r, err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != recordSize {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}
