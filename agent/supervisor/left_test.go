//go:build linux

package supervisor

import (
	"os"
	"path/filepath"
	"testing"
)

// A process on record runs if it is that one, and not one that has its number now.
func TestLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "process.json")
	if pid, runs, err := Left(path); pid != 0 || runs || err != nil {
		t.Errorf("without a record: %d, %v, %v", pid, runs, err)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	later, elsewhere := self, self
	later.Start++
	elsewhere.Boot = "another"
	for what, c := range map[string]struct {
		record recorded
		runs   bool
	}{"that process": {self, true}, "another of that number": {later, false}, "one of another boot": {elsewhere, false}} {
		if err := c.record.write(path); err != nil {
			t.Fatal(err)
		}
		if pid, runs, err := Left(path); pid != os.Getpid() || runs != c.runs || err != nil {
			t.Errorf("%s: %d, %v, %v", what, pid, runs, err)
		}
	}
	removeState(path)
	if pid, runs, err := Left(path); pid != 0 || runs || err != nil {
		t.Errorf("after its end: %d, %v, %v", pid, runs, err)
	}
}
