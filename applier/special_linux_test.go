package applier

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"patchagent/manifest/reason"
)

// What chattr(1) calls +i and +a, and +F.
const (
	immutable  = 0x10
	appendOnly = 0x20
	casefold   = 0x40000000
)

// setFlags gives a file or folder what chattr(1) gives, until the test ends.
func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	had, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, had|flags)
	}
	if err != nil {
		t.Skipf("this filesystem, or this user, has no chattr: %v", err)
	}
	t.Cleanup(func() { must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, had)) })
}

// What is neither a file nor a folder is refused at a place and on the way to one,
// and is never opened so that the agent would wait for the other end of a pipe.
func TestPlanRefusesSpecialFiles(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string) error{
		"pipe": func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o644) },
		"socket": func(t *testing.T, path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		},
		"device": func(_ *testing.T, path string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "a") // a socket's name has to be short
			must(t, err)
			t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
			w := newWorldIn(t, dir, map[string]string{"lib/b": "b"})
			if err := make(t, w.root+"/lib/odd"); err != nil {
				t.Skipf("this user cannot make a %s: %v", name, err)
			}
			must(t, os.Symlink("odd", w.root+"/lib/link"))
			before := w.tree()
			for _, c := range []struct {
				items []item
				says  string
			}{
				{[]item{mod("lib/odd", "x")}, "lib/odd is neither a file nor a folder"},
				{[]item{add("lib/odd", "x")}, "lib/odd is neither a file nor a folder"},
				{[]item{del("lib/odd")}, "lib/odd is neither a file nor a folder"},
				{[]item{del("lib/odd"), add("lib/odd", "x")}, "lib/odd is neither a file nor a folder"},
				{[]item{add("lib/odd/x", "x")}, "lib/odd is not a folder"},
				{[]item{add("lib/odd/x/y", "x")}, "lib/odd is not a folder"},
				{[]item{del("lib/odd/x")}, "lib/odd is not a folder"},
				{[]item{add("lib/link/x", "x")}, "lib/link is not a folder"},
			} {
				_, err := w.a.Plan(t.Context(), pack(t, true, c.items...))
				if code, _ := reason.Of(err); code != reason.Drift || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v: %v, want %q", c.items, err, c.says)
				}
			}
			w.wantTree(before, "after the plans")
		})
	}
}

func TestPlanRefusesLinks(t *testing.T) {
	w := newWorld(t, oldTree)
	outside := t.TempDir()
	for name, to := range map[string]string{
		"out": outside, "up": "../..", "dangling": "not/there", "gone": "/not/there", "loop": "pool", "pool": "loop", "to-file": "a.txt", "by-out": "out",
	} {
		must(t, os.Symlink(to, filepath.Join(w.root, name)))
	}
	before := w.tree()
	for name, says := range map[string]string{
		"out": "out is a link that leads out of the tree", "up": "up is a link that leads out of the tree", "by-out": "by-out is a link that leads out of the tree",
		"dangling": "cannot follow the link dangling", "gone": "cannot follow the link gone", "loop": "cannot follow the link loop", "to-file": "to-file is not a folder",
	} {
		for _, it := range []item{add(name+"/x", "x"), add(name+"/x/y", "x"), mod(name+"/x", "x"), del(name + "/x")} {
			_, err := w.a.Plan(t.Context(), pack(t, true, it))
			if code, _ := reason.Of(err); code != reason.Drift || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want %q", it.place, err, says)
			}
		}
	}
	w.wantTree(before, "after the plans")
}

// A link at a place is what a patch replaces or deletes, never what it leads to; what
// an operator may not expect is noted.
func TestLinksAreNoted(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("theirs"), 0o600))
	w := newWorld(t, map[string]string{"lib/b": "b"})
	for name, to := range map[string]string{"out": outside, "gone": outside, "loop": "loop", "current": "lib", "here": "."} {
		must(t, os.Symlink(to, filepath.Join(w.root, name)))
	}
	items := []item{mod("out", "x"), del("gone"), mod("loop", "x"), mod("current/b", "x"), add("current/c", "x"), add("here/d", "x")}
	plan, err := w.a.Plan(t.Context(), pack(t, true, items...))
	must(t, err)
	notes := strings.Join(plan.Notes, "\n")
	for _, want := range []string{
		"out is a symbolic link to " + outside + "; it is replaced", "loop is a symbolic link to loop; it is replaced",
		"current is a symbolic link to the folder lib of the tree", "here is a symbolic link to the folder . of the tree",
	} {
		if strings.Count(notes, want) != 1 {
			t.Errorf("%q is not among the notes once:\n%s", want, notes)
		}
	}
	_, err = w.apply(pack(t, true, items...), &proc{up: true})
	must(t, err)
	w.wantTree(map[string]string{"out": "644 x", "loop": "644 x", "current": "-> lib", "here": "-> .", "lib/": "755", "lib/b": "644 x", "lib/c": "644 x", "d": "644 x"}, "applied")
	if data, err := os.ReadFile(outside); err != nil || string(data) != "theirs" {
		t.Errorf("outside: %q, %v", data, err)
	}
}

// The file outside that a place is a hard link to stays what it is, through the patch,
// a rollback, and the removal of the kept build.
func TestHardLinkToOutside(t *testing.T) {
	for name, items := range map[string][]item{"replaced": {mod("twin", "new")}, "deleted": {del("twin")}, "new again": {del("twin"), add("twin", "new")}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(dir, "outside")
			must(t, os.WriteFile(outside, []byte("theirs"), 0o640))
			if os.Getuid() == 0 {
				must(t, os.Chown(outside, 1234, 5678))
			}
			if err := unix.Setxattr(outside, "user.origin", []byte("factory"), 0); err != nil {
				t.Logf("without attributes: %v", err)
			}
			state := func() string {
				var st unix.Stat_t
				must(t, unix.Stat(outside, &st))
				data, err := os.ReadFile(outside)
				must(t, err)
				value := make([]byte, 16)
				n, _ := unix.Getxattr(outside, "user.origin", value)
				return fmt.Sprintf("%d %o %d:%d %s %q", st.Ino, st.Mode, st.Uid, st.Gid, data, value[:max(n, 0)])
			}
			before := state()
			check := func(when string) {
				t.Helper()
				if now := state(); now != before {
					t.Errorf("%s: outside is %s, was %s", when, now, before)
				}
			}
			w := newWorldIn(t, dir, map[string]string{"x": "x"})
			must(t, os.Link(outside, w.root+"/twin"))
			plan, err := w.a.Plan(t.Context(), pack(t, true, items...))
			must(t, err)
			if noted := strings.Contains(strings.Join(plan.Notes, "\n"), "twin has other hard links"); noted != (name != "deleted") {
				t.Errorf("notes: %q", plan.Notes)
			}
			trees := w.patched(pack(t, true, items...))
			check("applied")
			_, err = w.back(0, false, &proc{up: true})
			must(t, err)
			w.wantTree(trees[0], "rolled back")
			check("rolled back")
			w.patched(pack(t, true, items...))
			w.a.Configure(nil, nil, 0)
			w.a.prune()
			check("forgotten")
		})
	}
}

// What chattr has made immutable or append-only cannot be renamed, even by root.
func TestPlanRefusesFixedFiles(t *testing.T) {
	for _, c := range []struct {
		place string
		flag  int
		item  item
		says  string // "": it is no hindrance
	}{
		{"lib/b.txt", immutable, mod("lib/b.txt", "x"), "lib/b.txt is immutable"},
		{"lib/b.txt", immutable, del("lib/b.txt"), "lib/b.txt is immutable"},
		{"lib/b.txt", appendOnly, mod("lib/b.txt", "x"), "lib/b.txt is append-only"},
		{"lib/b.txt", immutable, mod("lib/b.txt", "old b"), ""},
		{"lib", immutable, mod("lib/b.txt", "x"), "the folder of lib/b.txt is immutable"},
		{"lib", immutable, add("lib/d/e", "x"), "the folder of lib/d is immutable"},
		{"lib", appendOnly, add("lib/d", "x"), "the folder of lib/d is append-only"},
		{"deep", immutable, mod("deep/er/d.txt", "x"), ""},
		{"", immutable, mod("a.txt", "x"), "the folder of a.txt is immutable"},
	} {
		t.Run(c.place+" "+c.item.place, func(t *testing.T) {
			w := newWorld(t, oldTree)
			setFlags(t, filepath.Join(w.root, c.place), c.flag)
			before := w.tree()
			_, err := w.a.Plan(t.Context(), pack(t, true, c.item))
			if code, _ := reason.Of(err); c.says == "" && err != nil || c.says != "" && (code != reason.Drift || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
			w.wantTree(before, "after the plan")
		})
	}
}

// A file that becomes immutable after the plan has the patch undone.
func TestFileIsFixedBeforeTheCommit(t *testing.T) {
	ways(t, func(t *testing.T, exchange bool) {
		for _, place := range []string{"a.txt", "left.txt", "lib", "lib/c.txt"} {
			t.Run(place, func(t *testing.T) {
				w := newWorld(t, oldTree)
				w.a.exchange = exchange
				before := w.tree()
				w.between(func() { setFlags(t, filepath.Join(w.root, place), immutable) })
				r, err := w.apply(pack(t, true, newItems...), &proc{up: true})
				must(t, err)
				if r.Outcome != reason.RolledBack || r.Code != reason.CommitFailed {
					t.Errorf("%+v", r)
				}
				w.wantTree(before, "rolled back")
			})
		}
	})
}

// Another name of the agent's own files is as protected as they are.
func TestOwnFilesByOtherNames(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "agent.toml")
	must(t, os.WriteFile(config, nil, 0o644))
	w := newWorldIn(t, dir, map[string]string{"key.pem": "key", "lib/b": "b", "own/patches/": ""})
	must(t, os.Link(config, w.root+"/lib/twin"))
	must(t, os.Link(w.root+"/key.pem", w.root+"/lib/key"))
	must(t, os.Symlink("own/patches", w.root+"/alias"))
	linked := filepath.Join(dir, "by-link.pem")
	must(t, os.Symlink(w.root+"/lib/b", linked))
	w.a.Configure(nil, guards(config, w.root+"/key.pem", w.root+"/own/patches", linked), 3)
	before := w.tree()
	for _, items := range [][]item{
		{mod("lib/twin", "x")}, {add("lib/twin", "x")}, {del("lib/twin")}, {del("lib/twin"), add("lib/twin", "x")},
		{mod("lib/key", "x")}, {del("lib/key")}, {mod("key.pem", "x")}, {add("alias/x", "x")}, {add("alias/x/y", "x")}, {del("lib/b")},
	} {
		_, err := w.a.Plan(t.Context(), pack(t, true, items...))
		if code, _ := reason.Of(err); code != reason.ProtectedPath || !strings.Contains(err.Error(), "belongs to the agent") {
			t.Errorf("%v: %v", items, err)
		}
	}
	w.wantTree(before, "after the plans")
}

// A rollback by hand leaves alone what has become the agent's own since the patch.
func TestBackOverOwnFiles(t *testing.T) {
	w := newWorld(t, oldTree)
	w.patched(pack(t, true, add("lib/key", "key"), del("left.txt")))
	twin := filepath.Join(t.TempDir(), "twin")
	must(t, os.Link(w.root+"/lib/key", twin))
	for _, guard := range []string{w.root + "/lib/key", w.root + "/lib", twin, w.root + "/left.txt"} {
		w.a.Configure(nil, guards(guard), 3)
		_, err := w.a.PlanBack(t.Context(), 1, nil, true)
		if code, _ := reason.Of(err); code != reason.ProtectedPath {
			t.Errorf("%s: %v", guard, err)
		}
	}
}

// A folder that was moved since and left a link behind is gone back in where it is;
// one that was moved out of the tree is left alone.
func TestBackThroughLinks(t *testing.T) {
	w := newWorld(t, oldTree)
	w.patched(pack(t, true, mod("lib/b.txt", "new"), del("lib/c.txt"), add("lib/sub/new", "new")))
	lib, moved, outside := w.root+"/lib", w.root+"/moved", filepath.Join(t.TempDir(), "lib")
	must(t, os.Rename(lib, outside))
	must(t, os.Symlink(outside, lib))
	_, err := w.a.PlanBack(t.Context(), 1, nil, true)
	if code, _ := reason.Of(err); code != reason.Drift {
		t.Errorf("moved out: %v", err)
	}
	must(t, os.Rename(outside, moved))
	must(t, os.Remove(lib))
	must(t, os.Symlink("moved", lib))
	r, err := w.back(0, false, &proc{up: true})
	must(t, err)
	if r.Code != reason.Requested {
		t.Errorf("%+v", r)
	}
	w.wantTree(map[string]string{"lib": "-> moved", "moved/": "755", "moved/b.txt": "644 old b", "moved/c.txt": "644 old c",
		"a.txt": "644 old a", "deep/": "755", "deep/er/": "755", "deep/er/d.txt": "644 old d", "left.txt": "644 left"}, "rolled back")
}

// Two places of the kept builds that a link has made one are not both gone back to.
func TestBackToOnePlaceByTwoNames(t *testing.T) {
	w := newWorld(t, map[string]string{"lib/b": "old", "other/b": "old"})
	w.patched(pack(t, true, mod("lib/b", "new"), mod("other/b", "new")))
	must(t, os.RemoveAll(w.root+"/lib"))
	must(t, os.Symlink("other", w.root+"/lib"))
	_, err := w.a.PlanBack(t.Context(), 1, nil, true)
	if code, _ := reason.Of(err); code != reason.Drift || !strings.Contains(err.Error(), "the same place") {
		t.Error(err)
	}
}

// A folder that becomes a link between the plan and the commit leads the patch
// nowhere, neither out of the tree nor to another place in it.
func TestFolderBecomesALink(t *testing.T) {
	for name, to := range map[string]string{"outside": "", "another folder": "other", "nowhere": "not/there", "a file": "a.txt", "a pipe": "pipe"} {
		for _, it := range []item{mod("lib/b.txt", "new"), del("lib/b.txt"), add("lib/new", "new"), add("lib/sub/new", "new")} {
			ways(t, func(t *testing.T, exchange bool) {
				t.Run(fmt.Sprint(name, it.op, it.place), func(t *testing.T) {
					outside := t.TempDir()
					must(t, os.WriteFile(outside+"/b.txt", []byte("theirs"), 0o600))
					to := cmp.Or(to, outside)
					w := newWorld(t, map[string]string{"a.txt": "a", "lib/b.txt": "b", "other/b.txt": "other b"})
					w.a.exchange = exchange
					w.between(func() {
						must(t, os.Rename(w.root+"/lib", w.root+"/moved"))
						must(t, os.Symlink(to, w.root+"/lib"))
						must(t, unix.Mkfifo(w.root+"/pipe", 0o644))
					})
					r, err := w.apply(pack(t, false, mod("a.txt", "new"), it), &proc{up: true})
					must(t, err)
					if r.Outcome != reason.RolledBack || !strings.Contains(r.Detail, "lib was a folder when the patch was planned") {
						t.Errorf("%+v", r)
					}
					w.wantTree(map[string]string{"a.txt": "644 a", "pipe": "p---------", "lib": "-> " + to, "moved/": "755", "moved/b.txt": "644 b", "other/": "755", "other/b.txt": "644 other b"}, "rolled back")
					entries, err := os.ReadDir(outside)
					must(t, err)
					if data, err := os.ReadFile(outside + "/b.txt"); err != nil || len(entries) != 1 || string(data) != "theirs" {
						t.Errorf("outside: %v, %q, %v", entries, data, err)
					}
				})
			})
		}
	}
}

// Where names cannot be swapped, a replacement can end between the second name and
// the rename, and so can its undoing.
func TestHalfReplaced(t *testing.T) {
	for name, after := range map[string]func(live, old string) error{
		"linked": func(live, old string) error { return os.Link(live, old) },
		"moved":  os.Rename,
		"moved, made anew": func(live, old string) error {
			if err := os.Rename(live, old); err != nil {
				return err
			}
			return os.WriteFile(live, []byte("by hand"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, oldTree)
			w.a.exchange = false
			before := w.tree()
			pkg := pack(t, true, mod("a.txt", "new"), mod("lib/b.txt", "new"))
			plan, err := w.a.Plan(t.Context(), pkg)
			must(t, err)
			tx, err := w.a.Stage(t.Context(), pkg, plan, Patch{ID: "1", Name: "p.zip", Warm: true, Build: 300})
			must(t, err)
			for _, s := range tx.Plan().Steps {
				must(t, after(filepath.Join(w.root, s.Path), tx.stagePath(s.Stage+oldSuffix)))
			}
			for range 2 { // it can be repeated
				must(t, tx.undo())
				w.wantTree(before, "undone")
			}
		})
	}
}

// A cold patch that cannot be undone says first that the process is down, for how long
// that was so far, and what is in the way, by the names that it has on this machine.
func TestRollbackMeetsImmutable(t *testing.T) {
	for _, fixed := range []string{"lib/b.txt", "lib"} {
		t.Run(fixed, func(t *testing.T) {
			w := newWorld(t, oldTree)
			p := &proc{up: true, fail: map[string]error{HookAfterStart: reason.Errorf(reason.Unhealthy, "ill")}}
			at := filepath.Join(w.root, fixed)
			p.hooks = func(e Event) {
				if e.Name == HookAfterStart {
					setFlags(t, at, immutable)
				}
			}
			r, err := w.apply(pack(t, false, mod("lib/b.txt", "new b")), p)
			must(t, err)
			want := ProcessDownBetween + "cannot undo the patch: " + filepath.Join(w.root, "lib/b.txt") + ": rename: operation not permitted (" + at + " is immutable: see `lsattr -d " + at + "`"
			if r.Outcome != reason.Failed || !strings.HasPrefix(r.Detail, want) || !strings.HasSuffix(r.Detail, "it was to be undone because: ill (unhealthy)") || r.Downtime <= 0 || p.up {
				t.Errorf("%+v, want %q", r, want)
			}
		})
	}
}
