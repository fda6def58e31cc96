//go:build unix

package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"patchagent/manifest/signature"
)

const nobody = 65534

// A key is trusted if nobody else can put another one in its place, anywhere on the
// way to it; and nothing that has its name keeps anybody waiting.
func TestWayToAKey(t *testing.T) {
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		root    bool // only root can prepare it
		prepare func(dir string)
		says    string
	}{
		{"plain", false, func(string) {}, ""},
		{"through links of ours", false, func(dir string) {
			must(os.Rename(dir+"/deep", dir+"/moved"), os.Symlink("keys/../moved", dir+"/deep"), os.Mkdir(dir+"/keys", 0o755),
				os.Rename(dir+"/moved/keys/a.pub", dir+"/keys/b"), os.Symlink(dir+"/keys/b", dir+"/moved/keys/a.pub"))
		}, ""},
		{"in a folder like /tmp", false, func(dir string) { chmod(t, dir+"/deep", 0o777|os.ModeSticky) }, ""},
		{"others can write far above it", false, func(dir string) { chmod(t, dir, 0o775) }, "mend it with: chmod go-w "},
		{"others can write where a link leads through", false, func(dir string) {
			must(os.MkdirAll(dir+"/loose/in", 0o755), os.Rename(dir+"/deep/keys", dir+"/loose/in/keys"), os.Symlink("../loose/in/keys", dir+"/deep/keys"))
			chmod(t, dir+"/loose", 0o777)
		}, "loose: a key of verify.keys could be another one by now, so look at it first; mend it with: chmod go-w "},
		{"another user owns a folder above it", true, func(dir string) { must(os.Chown(dir+"/deep", nobody, nobody)) }, "mend it with: run this as "},
		{"another user's link in a folder like /tmp", true, func(dir string) {
			chmod(t, dir+"/deep", 0o777|os.ModeSticky)
			must(os.Rename(dir+"/deep/keys", dir+"/keys"), os.Symlink("../keys", dir+"/deep/keys"), os.Lchown(dir+"/deep/keys", nobody, nobody))
		}, "mend it with: run this as "},
		{"another user's file in a folder like /tmp", true, func(dir string) {
			chmod(t, dir+"/deep/keys", 0o777|os.ModeSticky)
			must(os.Chown(dir+"/deep/keys/a.pub", nobody, nobody))
		}, "mend it with: run this as "},
		{"links in a circle", false, func(dir string) {
			must(os.Remove(dir+"/deep/keys/a.pub"), os.Symlink("b", dir+"/deep/keys/a.pub"), os.Symlink("a.pub", dir+"/deep/keys/b"))
		}, "leads through more than 40 links"},
		{"a device that everybody can write to", false, func(dir string) {
			must(os.Remove(dir+"/deep/keys/a.pub"), os.Symlink("/dev/null", dir+"/deep/keys/a.pub"))
		}, "it is not a regular file"},
		{"a pipe", false, func(dir string) {
			must(os.Remove(dir+"/deep/keys/a.pub"), syscall.Mkfifo(dir+"/deep/keys/a.pub", 0o644))
		}, "it is not a regular file"},
		{"a folder", false, func(dir string) {
			must(os.Remove(dir+"/deep/keys/a.pub"), os.Mkdir(dir+"/deep/keys/a.pub", 0o755))
		}, "it is not a regular file"},
		{"a large file", false, func(dir string) { must(os.Truncate(dir+"/deep/keys/a.pub", 1<<40)) }, "it is larger than"},
		{"nothing", false, func(dir string) { must(os.RemoveAll(dir + "/deep/keys")) }, "is not there; put the public key there"},
		{"a file on the way", false, func(dir string) { must(os.RemoveAll(dir+"/deep/keys"), os.WriteFile(dir+"/deep/keys", nil, 0o644)) }, "cannot read a key of verify.keys: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			cfg, err := loadText(t, base+"[verify]\nkeys = [\"deep/keys/a.pub\"]\n")
			must(err)
			dir := filepath.Dir(cfg.Path)
			chmod(t, dir, 0o755)
			must(os.MkdirAll(dir+"/deep/keys", 0o755))
			if _, err := ownWay("this", cfg.Path); err != nil {
				t.Skip("it is not ours alone here: ", err)
			}
			made, err := signature.Generate(t.Context(), dir+"/deep/keys/a.pub", dir+"/a.sec", "")
			must(err)
			c.prepare(dir)
			keys, err := cfg.ReadKeys()
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if err == nil && (len(keys) != 1 || keys[0].ID() != made.ID()) || err != nil && len(keys) != 0 {
				t.Errorf("the keys are %v", keys)
			}
		})
	}
}

// A key that is withdrawn by removing its file does not keep later changes from being
// taken; one that is added has to be there.
func TestRereadWithoutAKey(t *testing.T) {
	c, err := loadText(t, base+"[verify]\nkeys = [\"gone.pub\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	chmod(t, filepath.Dir(c.Path), 0o755)
	r := NewReloader(c)
	for _, step := range []struct {
		keys, says string
	}{
		{`"gone.pub", "new.pub"`, "new.pub is not there"}, {`"gone.pub"`, ""}, {``, ""}, {`"gone.pub"`, "gone.pub is not there"},
	} {
		write(t, c.Path, base+"[verify]\nkeys = ["+step.keys+"]\n")
		next, err := r.Reread()
		if (next != nil) != (step.says == "") || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: %v, %v", step.keys, next, err)
		}
	}
}

// What a running agent takes for agent.toml nobody but root and its own user can have
// put there.
func TestRereadFromWhom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away")
	}
	c, err := loadText(t, base)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(c.Path)
	chmod(t, dir, 0o755)
	if doubts := c.Doubts(); len(doubts) > 0 {
		t.Skip("it is not ours alone here: ", doubts)
	}
	r := NewReloader(c)
	step := func(when string, wantNew bool, says string) {
		t.Helper()
		next, err := r.Reread()
		if (next != nil) != wantNew || (err != nil) != (says != "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %v", when, next, err)
		}
		if says != "" && len(c.Doubts()) == 0 {
			t.Errorf("%s: it is not doubted", when)
		}
	}
	give := func(path string, uid int) {
		t.Helper()
		if err := os.Lchown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	write(t, c.Path, base+"dir = \"x\"\n")
	step("changed", true, "")
	give(c.Path, nobody)
	step("another user's, as it was", false, "")
	write(t, c.Path, base+"dir = \"y\"\n")
	step("another user's, changed", false, "is not taken while the agent runs: "+c.Path+" belongs to ")
	step("another user's still", false, "")
	give(c.Path, 0)
	step("given back", true, "")
	give(dir, nobody)
	write(t, c.Path, base+"dir = \"z\"\n")
	step("in another user's folder", false, "is not taken while the agent runs: "+dir+" belongs to ")
	give(dir, 0)
	step("in ours", true, "")
	chmod(t, dir, 0o775)
	if doubts := c.Doubts(); len(doubts) != 2 || !strings.Contains(doubts[1].Error(), "state.dir could be another one by now") {
		t.Errorf("%v", doubts)
	}
	chmod(t, dir, 0o755)
	// A file of root's with the words of somebody else, such as the output of the process.
	write(t, filepath.Join(dir, "output"), base+"dir = \"w\"\n")
	if err := errors.Join(os.Remove(c.Path), os.Symlink("output", c.Path)); err != nil {
		t.Fatal(err)
	}
	give(c.Path, nobody)
	step("another user's link", false, "belongs to ")
	chmod(t, filepath.Join(dir, "output"), 0o646)
	give(c.Path, 0)
	step("our link to a file for everybody to write", false, "")
	chmod(t, filepath.Join(dir, "output"), 0o644)
	step("as it should be", true, "")
}

// All names by which a file is what it is.
func TestNames(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err == nil {
		err = errors.Join(os.MkdirAll(dir+"/etc", 0o755), os.MkdirAll(dir+"/app/conf", 0o755), os.MkdirAll(dir+"/app/v1", 0o755), os.WriteFile(dir+"/app/v1/real.toml", nil, 0o644),
			os.Symlink("../app/current/agent.toml", dir+"/etc/agent.toml"), os.Symlink("conf", dir+"/app/current"), os.Symlink("../v1/real.toml", dir+"/app/conf/agent.toml"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct{ own, links []string }{
		dir + "/etc/agent.toml":     {[]string{dir + "/etc/agent.toml", dir + "/app/v1/real.toml"}, []string{dir + "/app/current", dir + "/app/conf/agent.toml"}},
		dir + "/app/current/none/x": {[]string{dir + "/app/current/none/x", dir + "/app/conf/none/x"}, []string{dir + "/app/current"}},
		dir + "/app/v1":             {[]string{dir + "/app/v1"}, nil},
	} {
		if own, links := Names(path); !slices.Equal(own, want.own) || !slices.Equal(links, want.links) {
			t.Errorf("%s: %q and %q, want %q", path, own, links, want)
		}
	}
}
