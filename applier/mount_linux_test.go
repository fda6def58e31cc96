package applier

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"patchagent/manifest/reason"
)

// mounting runs the test in a program of its own that has mounts of its own, so that
// they go with it whatever happens. It is true in that program, where mount works.
func mounting(t *testing.T) bool {
	t.Helper()
	const inside = "APPLIER_TEST_MOUNTS"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if uid := os.Getuid(); uid != 0 {
			cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		switch {
		case cmd.Process == nil:
			t.Skipf("mounts of its own are not allowed here: %v", err)
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		case bytes.Contains(out, []byte("--- SKIP: "+t.Name()+" ")):
			t.Skipf("%s", out)
		case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
			t.Errorf("the test has not run:\n%s", out)
		}
		return false
	}
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounting is not possible here: %v", err)
	}
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	return true
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	must(t, unix.Mount(from, to, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(to, unix.MNT_DETACH)) })
}

func mountMemory(t *testing.T, to, options string) {
	t.Helper()
	must(t, unix.Mount("memory", to, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(to, unix.MNT_DETACH)) })
}

// What is mounted in the tree is refused by the plan, even if it is of the same
// filesystem, as containers and systemd mount single files and folders.
func TestPlanRefusesMounts(t *testing.T) {
	if !mounting(t) {
		return
	}
	tree := map[string]string{"a.txt": "a", "lib/b.txt": "b", "lib/deep/c.txt": "c", "empty/": "", "own/state/claims/1": "1", "own/agent.toml": "", "alias/": "", "alias.toml": ""}
	for _, c := range []struct {
		name  string
		mount func(t *testing.T, w *world, other string)
		item  item
		code  reason.Code
		says  string
	}{
		{"a folder", func(t *testing.T, w *world, other string) { bind(t, other, w.root+"/lib") }, mod("lib/file", "x"), reason.Drift, "lib is on another mount"},
		{"a folder on itself", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/lib", w.root+"/lib") }, mod("lib/b.txt", "x"), reason.Drift, "lib is on another mount"},
		{"a folder below one", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/lib/deep", w.root+"/lib/deep") }, add("lib/deep/new/er", "x"), reason.Drift, "lib/deep is on another mount"},
		{"a folder behind a link", func(t *testing.T, w *world, _ string) {
			bind(t, w.root+"/lib", w.root+"/lib")
			must(t, os.Symlink("lib/deep", w.root+"/link"))
		}, mod("link/c.txt", "x"), reason.Drift, "link is on another mount"},
		{"a file", func(t *testing.T, w *world, other string) { bind(t, other+"/file", w.root+"/a.txt") }, mod("a.txt", "x"), reason.Drift, "a.txt is on another mount"},
		{"a file to be deleted", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/a.txt", w.root+"/a.txt") }, del("a.txt"), reason.Drift, "a.txt is on another mount"},
		{"a folder to be deleted", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/empty", w.root+"/empty") }, del("empty"), reason.Drift, "empty is on another mount"},
		{"another filesystem", func(t *testing.T, w *world, _ string) { mountMemory(t, w.root+"/lib", "") }, add("lib/b.txt", "x"), reason.Drift, "lib is on another mount"},
		{"another filesystem, by its device alone", func(t *testing.T, w *world, _ string) {
			mountMemory(t, w.root+"/lib", "")
			w.a.mount = 0 // as where the kernel does not tell
		}, add("lib/b.txt", "x"), reason.Drift, "lib is on another mount"},
		{"the state folder", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/own/state", w.root+"/alias") }, add("alias/x", "x"), reason.ProtectedPath, "alias is another name of"},
		{"above a link", func(t *testing.T, w *world, _ string) {
			bind(t, w.root+"/own/state", w.root+"/alias")
			must(t, os.Symlink("alias/claims", w.root+"/link"))
		}, add("link/x", "x"), reason.ProtectedPath, "link is another name of"},
		{"agent.toml", func(t *testing.T, w *world, _ string) { bind(t, w.root+"/own/agent.toml", w.root+"/alias.toml") }, mod("alias.toml", "x"), reason.ProtectedPath, "alias.toml is another name of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, tree)
			w.a.Configure(nil, guards(w.root+"/own/state", w.root+"/own/agent.toml"), 3)
			other := t.TempDir()
			must(t, os.WriteFile(other+"/file", []byte("other"), 0o644))
			c.mount(t, w, other)
			before := w.tree()
			_, err := w.a.Plan(t.Context(), pack(t, true, c.item))
			if code, _ := reason.Of(err); code != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (%s), want %s that says %q", err, code, c.code, c.says)
			}
			w.wantTree(before, "after the plan")
		})
	}
}

// A mount that was made over what a patch has changed is in the way of going back.
func TestBackOverMounts(t *testing.T) {
	if !mounting(t) {
		return
	}
	for name, c := range map[string]struct {
		place string
		items []item
	}{
		"a folder on the way":       {"lib", []item{mod("lib/b.txt", "new")}},
		"the file":                  {"lib/b.txt", []item{mod("lib/b.txt", "new")}},
		"the way of a deleted file": {"lib", []item{del("lib/b.txt")}},
		"a folder of the patch":     {"made", []item{add("made/x", "x")}},
		"an empty one of the patch": {"made", []item{add("made/x", "x")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, oldTree)
			w.patched(pack(t, true, c.items...))
			if strings.HasPrefix(name, "an empty") {
				must(t, os.Remove(w.root+"/made/x"))
			}
			bind(t, w.root+"/"+c.place, w.root+"/"+c.place)
			for _, force := range []bool{false, true} {
				_, err := w.a.PlanBack(t.Context(), 1, nil, force)
				if code, _ := reason.Of(err); code != reason.Drift || !strings.Contains(err.Error(), c.place) || !strings.Contains(err.Error(), " is on another mount") {
					t.Errorf("force %v: %v", force, err)
				}
			}
		})
	}
}

// A mount that comes between the plan and the commit has the patch undone, and what
// is mounted stays as it is.
func TestMountComesBeforeTheCommit(t *testing.T) {
	if !mounting(t) {
		return
	}
	ways(t, func(t *testing.T, exchange bool) {
		for _, it := range []item{mod("lib/b.txt", "new"), del("lib/b.txt"), add("lib/new", "new"), add("lib/sub/new", "new")} {
			w := newWorld(t, oldTree)
			w.a.exchange = exchange
			other := t.TempDir()
			must(t, os.WriteFile(other+"/b.txt", []byte("theirs"), 0o600))
			before := w.tree()
			w.between(func() { must(t, unix.Mount(other, w.root+"/lib", "", unix.MS_BIND, "")) })
			r, err := w.apply(pack(t, false, mod("a.txt", "new"), it), &proc{up: true})
			must(t, err)
			must(t, unix.Unmount(w.root+"/lib", unix.MNT_DETACH))
			if r.Outcome != reason.RolledBack || r.Code != reason.CommitFailed {
				t.Errorf("%s: %+v", it.place, r)
			}
			w.wantTree(before, it.place)
			entries, err := os.ReadDir(other)
			must(t, err)
			if data, err := os.ReadFile(other + "/b.txt"); err != nil || len(entries) != 1 || string(data) != "theirs" {
				t.Errorf("%s: what was mounted: %v, %q, %v", it.place, entries, data, err)
			}
		}
	})
}

// Two folders of one filesystem that are mounted each by itself, as systemd does it,
// are no place to work in; one mount that holds both is.
func TestStateOnAnotherMount(t *testing.T) {
	if !mounting(t) {
		return
	}
	dir := t.TempDir()
	bind(t, dir, dir)
	w := newWorldIn(t, dir, oldTree)
	_, err := w.apply(pack(t, true, mod("a.txt", "new")), &proc{up: true})
	must(t, err)
	w.a.Close()
	for _, place := range []string{w.root, w.opts.State} {
		t.Run(filepath.Base(place), func(t *testing.T) {
			bind(t, place, place)
			_, err := Open(w.opts)
			if err == nil || !strings.Contains(err.Error(), "different mounts") || !strings.Contains(err.Error(), "ReadWritePaths=") {
				t.Errorf("%v", err)
			}
		})
	}
	w.open()
}

// Where case does not count, the agent's own files have many names.
func TestOwnFilesSpelledOtherwise(t *testing.T) {
	if !mounting(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("memory", dir, "tmpfs", 0, "casefold"); err != nil {
		t.Skipf("this kernel knows no tmpfs in which case does not count: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	root := filepath.Join(dir, "app")
	must(t, os.Mkdir(root, 0o755))
	setFlags(t, root, casefold)
	w := newWorldIn(t, dir, map[string]string{"own/state/claims/1": "1", "agent.toml": "", "other": ""})
	w.a.Configure(nil, guards(root+"/own/state", root+"/agent.toml"), 3)
	must(t, os.Symlink("OWN/State/claims", root+"/link"))
	for _, it := range []item{add("own/STATE/x", "x"), add("Own/State/claims/2", "x"), mod("Agent.toml", "x"), del("AGENT.TOML"), add("link/2", "x")} {
		_, err := w.a.Plan(t.Context(), pack(t, true, it))
		if code, _ := reason.Of(err); code != reason.ProtectedPath {
			t.Errorf("%s: %v", it.place, err)
		}
	}
}
