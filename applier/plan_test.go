//go:build linux

package applier

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"patchagent/manifest/reason"
)

// What is refused is refused by the plan, with the place in the sentence.
func TestPlanRefuses(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name    string
		prepare func(w *world)
		items   []item
		code    reason.Code
		says    string
	}{
		{"a folder where a file is to be", nil, []item{mod("lib", "x")}, reason.Drift, "lib is a folder"},
		{"a file where a folder is to be", nil, []item{add("a.txt/b", "x")}, reason.Drift, "a.txt is not a folder"},
		{"deleting a folder that is not empty", nil, []item{del("lib")}, reason.Drift, "lib is a folder that is not empty"},
		{"replacing a folder by a file", nil, []item{del("lib"), add("lib", "x")}, reason.Drift, "lib is a folder"},
		{"a pipe", func(w *world) { must(t, unix.Mkfifo(filepath.Join(w.root, "pipe"), 0o644)) }, []item{mod("pipe", "x")}, reason.Drift, "pipe is neither"},
		{"a link out of the tree", func(w *world) { must(t, os.Symlink(outside, filepath.Join(w.root, "out"))) }, []item{add("out/x", "x")}, reason.Drift, "leads out of the tree"},
		{"one place by two names", func(w *world) { must(t, os.Symlink("lib", filepath.Join(w.root, "alias"))) },
			[]item{mod("lib/b.txt", "x"), mod("alias/b.txt", "y")}, reason.Drift, "the same place"},
		{"a protected file", nil, []item{mod("lib/b.txt", "x")}, reason.ProtectedPath, `"lib/**"`},
		{"a protected folder's new file", nil, []item{add("keys/new/k", "x")}, reason.ProtectedPath, `"keys"`},
		{"a protected file through a link", func(w *world) { must(t, os.Symlink("lib", filepath.Join(w.root, "alias"))) },
			[]item{mod("alias/b.txt", "x")}, reason.ProtectedPath, "lib/b.txt"},
		{"the agent's own folder", nil, []item{add("own/state/x", "x")}, reason.ProtectedPath, "belongs to the agent"},
		{"what holds the agent's own folder", nil, []item{del("own")}, reason.ProtectedPath, "belongs to the agent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, oldTree)
			if c.code == reason.ProtectedPath {
				w.a.Configure([]string{"lib/**", "keys"}, guards(filepath.Join(w.a.realRoot, "own/state")), 0)
			}
			if c.prepare != nil {
				c.prepare(w)
			}
			before := w.tree()
			_, err := w.a.Plan(t.Context(), pack(t, true, c.items...))
			if code, _ := reason.Of(err); code != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (%s), want %s that says %q", err, code, c.code, c.says)
			}
			w.wantTree(before, "after the plan")
		})
	}
}

func TestEmptyFolderIsDeletedAndComesBack(t *testing.T) {
	w := newWorld(t, map[string]string{"empty/": "", "a": "a"})
	before := w.tree()
	deaf := &proc{up: true, fail: map[string]error{"reload reload": reason.Errorf(reason.ReloadFailed, "deaf")}}
	r, err := w.apply(pack(t, true, del("empty")), deaf)
	must(t, err)
	if r.Outcome != reason.RolledBack {
		t.Errorf("%+v", r)
	}
	w.wantTree(before, "rolled back")
	_, err = w.apply(pack(t, true, del("empty")), &proc{up: true})
	must(t, err)
	w.wantTree(map[string]string{"a": "644 a"}, "applied")
}

func TestLinksInsideTheTree(t *testing.T) {
	w := newWorld(t, oldTree)
	must(t, os.Symlink("lib", filepath.Join(w.root, "current")))
	must(t, os.Symlink("../a.txt", filepath.Join(w.root, "lib/link")))
	must(t, os.Link(filepath.Join(w.root, "a.txt"), filepath.Join(w.root, "twin")))
	plan, err := w.a.Plan(t.Context(), pack(t, true, mod("current/b.txt", "new"), mod("lib/link", "a file"), mod("twin", "changed")))
	must(t, err)
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "symbolic link") || !strings.Contains(notes, "hard links") {
		t.Errorf("notes: %s", notes)
	}
	_, err = w.apply(pack(t, true, mod("current/b.txt", "new"), mod("lib/link", "a file"), mod("twin", "changed")), &proc{up: true})
	must(t, err)
	got := w.tree()
	for name, want := range map[string]string{"current": "-> lib", "lib/b.txt": "644 new", "lib/link": "644 a file", "a.txt": "644 old a", "twin": "644 changed"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

// An existing file keeps its mode, owner and attributes, when it is replaced and
// when it comes back.
func TestWhatAFileKeeps(t *testing.T) {
	w := newWorld(t, map[string]string{"tool": "old"})
	path := filepath.Join(w.root, "tool")
	if os.Getuid() == 0 {
		must(t, os.Chown(path, 1234, 5678))
	}
	must(t, os.Chmod(path, 0o751|os.ModeSetuid))
	attributes := unix.Setxattr(path, "user.origin", []byte("factory"), 0) == nil
	check := func(when, content string) {
		t.Helper()
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != 0o751|os.ModeSetuid {
			t.Errorf("%s: mode %v", when, info.Mode())
		}
		if o := ownerOf(info); os.Getuid() == 0 && *o != (owner{1234, 5678}) {
			t.Errorf("%s: owner %v", when, o)
		}
		if attributes {
			value := make([]byte, 16)
			if n, err := unix.Getxattr(path, "user.origin", value); err != nil || string(value[:n]) != "factory" {
				t.Errorf("%s: attribute %q, %v", when, value[:n], err)
			}
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("%s: %q, %v", when, data, err)
		}
	}
	deaf := &proc{up: true, fail: map[string]error{"reload reload": reason.Errorf(reason.ReloadFailed, "deaf")}}
	_, err := w.apply(pack(t, true, mod("tool", "new")), deaf)
	must(t, err)
	check("rolled back", "old")
	_, err = w.apply(pack(t, true, mod("tool", "new")), &proc{up: true})
	must(t, err)
	check("applied", "new")
}

// A file that is deleted and new at one place is a new file.
func TestDeleteAndNew(t *testing.T) {
	w := newWorld(t, map[string]string{"x": "old"})
	must(t, os.Chmod(filepath.Join(w.root, "x"), 0o600))
	plan, err := w.a.Plan(t.Context(), pack(t, true, del("x"), add("x", "new")))
	must(t, err)
	if plan.Counts.Deleted != 1 || plan.Counts.Created != 1 || len(plan.Changes) != 1 {
		t.Errorf("%+v", plan)
	}
	_, err = w.apply(pack(t, true, del("x"), add("x", "new")), &proc{up: true})
	must(t, err)
	w.wantTree(map[string]string{"x": "644 new"}, "afterwards")
}

func TestSpace(t *testing.T) {
	w := newWorld(t, oldTree)
	plan, err := w.a.Plan(t.Context(), pack(t, true, newItems...))
	must(t, err)
	must(t, w.a.Space(plan, 0))
	if code, _ := reason.Of(w.a.Space(plan, 1<<62)); code != reason.NoSpace {
		t.Errorf("code %s", code)
	}
}

func TestSecondAgentIsKeptOut(t *testing.T) {
	w := newWorld(t, oldTree)
	_, err := Open(w.opts)
	if _, ok := errors.AsType[*LockedError](err); !ok || !strings.Contains(err.Error(), "another agent (pid ") {
		t.Errorf("%v", err)
	}
	w.a.Close()
	w.open()
}
