package config

import (
	"context"
	"errors"
	"os"
	"patchagent/manifest/signature"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReread(t *testing.T) {
	c, err := loadText(t, base)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReloader(c)
	step := func(when, text string, wantNew, wantErr bool) {
		t.Helper()
		write(t, c.Path, text)
		next, err := r.Reread()
		if (next != nil) != wantNew || (err != nil) != wantErr {
			t.Errorf("%s: %v, %v", when, next, err)
		}
	}
	step("unchanged", base, false, false)
	step("just emptied", "", false, false)
	step("changed", base+"dir = \"x\"\n", true, false)
	step("bad", "regon = 1\n", false, true)
	step("bad, as before", "regon = 1\n", false, false)
	step("good again", base, true, false)
	if err := os.Remove(c.Path); err != nil {
		t.Fatal(err)
	}
	if next, err := r.Reread(); next != nil || err != nil {
		t.Errorf("removed: %v, %v", next, err)
	}
}

// A file that stays away, empty or unreadable is an error, once, and is read again
// when it is back.
func TestRereadAbsent(t *testing.T) {
	for _, absence := range []struct {
		name string
		make func(path string) error
	}{
		{"removed", os.Remove},
		{"empty", func(path string) error { return os.WriteFile(path, nil, 0o644) }},
		{"a folder", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }},
	} {
		t.Run(absence.name, func(t *testing.T) {
			c, err := loadText(t, base)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				r := NewReloader(c)
				step := func(when string, wantNew, wantErr bool) {
					t.Helper()
					next, err := r.Reread()
					if (next != nil) != wantNew || (err != nil) != wantErr {
						t.Errorf("%s: %v, %v", when, next, err)
					}
				}
				for _, again := range []string{"first", "second"} {
					if err := absence.make(c.Path); err != nil {
						t.Fatal(err)
					}
					step(again+" time, just now", false, false)
					time.Sleep(absentTime)
					step(again+" time, for long", false, true)
					time.Sleep(absentTime)
					step(again+" time, told already", false, false)
					if err := os.RemoveAll(c.Path); err != nil {
						t.Fatal(err)
					}
					write(t, c.Path, base)
					step("back as it was", true, false)
				}
				write(t, c.Path, base+"dir = \"x\"\n")
				step("changed", true, false)
			})
		})
	}
}

// Writes to a neighbour of the file wake nobody; all else may be about the file.
func TestWatcherConcerns(t *testing.T) {
	w := Watch("/etc/app/agent.toml", hclog.NewNullLogger())
	for _, c := range []struct {
		name string
		op   fsnotify.Op
		want bool
	}{
		{"agent.toml", fsnotify.Write, true},
		{"agent.toml", fsnotify.Chmod, true},
		{"agent.toml", fsnotify.Remove, true},
		{"agent.log", fsnotify.Write, false},
		{"agent.log", fsnotify.Write | fsnotify.Chmod, false},
		{"agent.log", fsnotify.Create | fsnotify.Write, true},
		{"..data", fsnotify.Create, true},
		{"..data", fsnotify.Rename, true},
	} {
		if got := w.concerns(fsnotify.Event{Name: "/etc/app/" + c.name, Op: c.op}); got != c.want {
			t.Errorf("%s of %s: %v", c.op, c.name, got)
		}
	}
}

func TestChangedAndFixed(t *testing.T) {
	before, err := loadText(t, base)
	if err != nil {
		t.Fatal(err)
	}
	after, err := loadText(t, "region = \"q\"\n[patch]\ndir = \"elsewhere\"\nmode = \"manual\"\n[target]\ncommand = [\"app\"]\nroot = \"other\"\n")
	if err != nil {
		t.Fatal(err)
	}
	after.Path = before.Path
	soon, later := Changed(before, after)
	if diff := cmp.Diff([]string{"region", "patch.mode"}, soon); diff != "" {
		t.Error(diff)
	}
	// The two files are in folders of their own, so every path differs.
	if diff := cmp.Diff([]string{"patch.dir", "state.dir", "target.root"}, later); diff != "" {
		t.Error(diff)
	}
	after.KeepFixed(before)
	if after.Patch.Dir != before.Patch.Dir || after.Target.Root != before.Target.Root || after.Patch.Mode != ModeManual {
		t.Errorf("%+v", after)
	}
	if soon, later := Changed(before, before); soon != nil || later != nil {
		t.Error(soon, later)
	}
}

// Whatever way the file is changed in, its owner is woken.
func TestWatcherWakes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.toml")
	write(t, path, base)
	w := Watch(path, hclog.NewNullLogger())
	w.poll = time.Hour // events alone must do
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	seen := func(what string, is func() bool) {
		t.Helper()
		late := time.After(2 * time.Minute)
		for {
			select {
			case <-w.C():
				if is() {
					return
				}
			case <-late:
				t.Fatalf("not woken after %s", what)
			}
		}
	}
	holds := func(text string) func() bool {
		return func() bool { data, err := os.ReadFile(path); return err == nil && string(data) == text }
	}
	seen("the start", holds(base))
	write(t, path, "written in place")
	seen("a write in place", holds("written in place"))
	write(t, path+".new", "renamed")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	seen("a rename over it", holds("renamed"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	seen("its removal", func() bool { _, err := os.Stat(path); return err != nil })
	// As Kubernetes does: the file is a link into a folder that a second link names.
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "agent.toml"), name)
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("one", "..data")
	link("..data/agent.toml", "agent.toml")
	seen("a link", holds("one"))
	link("two", "..data")
	seen("another folder behind the link", holds("two"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFolders(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		says    string // "" also for what only check complains of
	}{
		{"sound", func(*testing.T, string) {}, ""},
		{"nothing there yet", func(t *testing.T, dir string) {
			for _, d := range []string{"patch", ".patchagent"} {
				if err := os.Remove(filepath.Join(dir, d)); err != nil {
					t.Fatal(err)
				}
			}
		}, ""},
		{"everybody can drop", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "patch"), 0o777) }, "mend it with: chmod o-w"},
		{"others can write the state", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, ".patchagent"), 0o770) }, "mend it with: chmod go-w"},
		{"the patch folder is a link", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "patch"), filepath.Join(dir, "real")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("real", filepath.Join(dir, "patch")); err != nil {
				t.Fatal(err)
			}
		}, "is a link"},
		{"the state folder is the tree", func(t *testing.T, dir string) {
			chmod(t, dir, 0o755)
			if err := errors.Join(os.Remove(filepath.Join(dir, ".patchagent")), os.Symlink(".", filepath.Join(dir, ".patchagent"))); err != nil {
				t.Fatal(err)
			}
		}, "are the same folder"},
		{"the patch folder is a file", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "patch")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "patch"), "")
		}, "is not a folder"},
		{"everybody can write agent.toml", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "agent.toml"), 0o666) }, "mend it with: chmod o-w"},
		{"others can write the key", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "keys/a.pub"), 0o664) }, "mend it with: chmod go-w "},
		{"others can replace the key", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "keys"), 0o770) }, "mend it with: chmod go-w "},
		{"the key is where everybody has files", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "keys"), 0o777|os.ModeSticky) }, ""},
		{"the key is behind a link that others can write to", func(t *testing.T, dir string) {
			chmod(t, filepath.Join(dir, "keys/a.pub"), 0o666)
			if err := errors.Join(os.Rename(filepath.Join(dir, "keys/a.pub"), filepath.Join(dir, "keys/b")), os.Symlink("b", filepath.Join(dir, "keys/a.pub"))); err != nil {
				t.Fatal(err)
			}
		}, "mend it with: chmod go-w "},
		{"the key is missing", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "keys/a.pub")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"the key is a secret one", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "keys/a.sec"), filepath.Join(dir, "keys/a.pub")); err != nil {
				t.Fatal(err)
			}
		}, "it is a secret key"},
		{"the key is none", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "keys/a.pub"), "trust me") }, "cannot use"},
		{"the state is another user's", func(t *testing.T, dir string) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			if err := os.Chown(filepath.Join(dir, ".patchagent"), 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}, "mend it with: run this as "},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := loadText(t, "region = \"r\"\n[verify]\nkeys = [\"keys/a.pub\"]\n[target]\ncommand = [\"sh\"]\n")
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Dir(cfg.Path)
			chmod(t, dir, 0o755)
			if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := signature.Generate(t.Context(), filepath.Join(dir, "keys/a.pub"), filepath.Join(dir, "keys/a.sec"), ""); err != nil {
				t.Fatal(err)
			}
			for d, mode := range map[string]os.FileMode{"patch": 0o755, ".patchagent": 0o700} {
				if err := os.Mkdir(filepath.Join(dir, d), mode); err != nil {
					t.Fatal(err)
				}
			}
			c.prepare(t, dir)
			err = cfg.CheckFolders()
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			bad := 0
			for _, f := range cfg.CheckMachine(t.Context()) {
				if !f.OK {
					bad++
				}
			}
			if (bad > 0) != (c.says != "" || c.name == "the key is missing") {
				t.Errorf("check has %d complaints", bad)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestMachineFindsWhatIsMissing(t *testing.T) {
	cfg, err := loadText(t, "region = \"r\"\n[target]\nroot = \"none\"\ncommand = [\"bin/none\"]\nuser = \"no-such-user\"\noutput = \"none/there/out\"\n"+
		"[target.reload]\nexec = [\"no-such-program\"]\n[target.ready]\nexec = [\"also-none\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]bool{}
	for _, f := range cfg.CheckMachine(t.Context()) {
		if !f.OK {
			bad[f.Subject] = true
		}
	}
	want := map[string]bool{"target.root": true, "target.dir": true, "target.command": true, "target.user": true, "target.reload.exec": true, "target.ready.exec": true, "target.output": true}
	if diff := cmp.Diff(want, bad); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(filepath.Dir(cfg.Path)); err != nil || len(entries) != 1 {
		t.Errorf("the check left something: %v, %v", entries, err)
	}
}

// A log or an output that the start could not open is found before it.
func TestFilesCanBeWritten(t *testing.T) {
	for _, c := range []struct{ file, says string }{
		{"there.log", ""},
		{"new.log", ""},
		{"none/new.log", "is not there"},
		{"folder", "is a folder; it must be a file"},
		{"there.log/new.log", "is not a folder"},
	} {
		cfg, err := loadText(t, base+"output = \""+c.file+"\"\n[log]\nfile = \""+c.file+"\"\n")
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(cfg.Path)
		write(t, filepath.Join(dir, "there.log"), "")
		if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
			t.Fatal(err)
		}
		looked := 0
		for _, f := range cfg.CheckMachine(t.Context()) {
			if f.Subject == "log.file" || f.Subject == "target.output" {
				looked++
				if f.OK != (c.says == "") || !strings.Contains(f.Message, c.says) {
					t.Errorf("%s: %+v, want %q", c.file, f, c.says)
				}
			}
		}
		if looked != 2 {
			t.Errorf("%s: looked at %d", c.file, looked)
		}
	}
}

// A state folder on another filesystem is refused, there or not yet.
func TestOtherFilesystem(t *testing.T) {
	const elsewhere = "/dev/shm"
	here := t.TempDir()
	if a, err := os.Stat(here); err != nil {
		t.Fatal(err)
	} else if b, err := os.Stat(elsewhere); err != nil || device(a) == device(b) {
		t.Skip("there is no second filesystem at " + elsewhere)
	}
	cfg, err := loadText(t, base+"[state]\ndir = \""+elsewhere+"/patchagent-not-there/state\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.CheckFolders(); err == nil || !strings.Contains(err.Error(), "on different filesystems") {
		t.Error(err)
	}
}
