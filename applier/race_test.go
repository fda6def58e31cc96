package applier

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"patchagent/manifest/reason"
)

// between has something happen to the tree after the plan and before the commit,
// as when a process tidies up at its stop.
func (w *world) between(do func()) {
	w.a.opts.Fault = func(step string) error {
		if step == "commit step 0" {
			do()
		}
		return nil
	}
}

func TestProcessTidiesUpAtItsStop(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		for name, fails := range map[string]map[string]error{
			"applied": nil, "rolled back": {"start start": reason.Errorf(reason.StartFailed, "broken")},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, map[string]string{"lock": "1", "pid": "2", "keep": "k"})
				w.a.exchange = exchange
				w.between(func() {
					must(t, os.Remove(filepath.Join(w.root, "lock")))
					must(t, os.Remove(filepath.Join(w.root, "pid")))
				})
				_, err := w.apply(pack(t, false, del("lock"), mod("pid", "new")), &proc{up: true, fail: fails})
				must(t, err)
				want := map[string]string{"keep": "644 k"}
				if fails == nil {
					want["pid"] = "644 new"
				}
				w.wantTree(want, name)
			})
		}
	})
}

// A folder that fills up after the plan is not lost.
func TestFolderFillsUp(t *testing.T) {
	w := newWorld(t, map[string]string{"spool/": "", "a": "old"})
	w.between(func() { w.lay(map[string]string{"spool/job": "precious"}) })
	r, err := w.apply(pack(t, false, del("spool"), mod("a", "new")), &proc{up: true})
	must(t, err)
	if r.Outcome != reason.RolledBack || !strings.Contains(r.Detail, "no longer empty") {
		t.Errorf("%+v", r)
	}
	w.wantTree(map[string]string{"spool/": "755", "spool/job": "644 precious", "a": "644 old"}, "afterwards")
}
