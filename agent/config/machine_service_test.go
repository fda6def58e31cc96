package config

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A command that is missing is found, whatever it is for.
func TestMissingCommands(t *testing.T) {
	for text, want := range map[string][]string{
		base: {"target.command"},
		base + "[target.gate]\nexec = [\"no-such-gate\"]\n[target.hooks]\nbefore_stop = [\"bin/none\"]\nafter_files = [\"no-such\"]\nafter_start = [\"no-such\"]\nafter_rollback = [\"/no/such\"]\n": {
			"target.command", "target.gate.exec", "target.hooks.before_stop", "target.hooks.after_files", "target.hooks.after_start", "target.hooks.after_rollback",
		},
		external + "reload = [\"no-such\"]\n":                                                       {"target.external.start", "target.external.stop", "target.external.reload", "target.external.status"},
		"region = \"r\"\n[target.external]\nstart = [\"sh\"]\nstop = [\"sh\"]\nstatus = [\"sh\"]\n": nil,
	} {
		c, err := loadText(t, strings.ReplaceAll(text, `"app"`, `"no-such-app"`))
		if err != nil {
			t.Fatal(err)
		}
		var bad []string
		for _, f := range c.CheckMachine(t.Context()) {
			if !f.OK {
				bad = append(bad, f.Subject)
			}
		}
		if diff := cmp.Diff(want, bad); diff != "" {
			t.Errorf("%s%s", text, diff)
		}
	}
}

// A socket that cannot be is found before the start.
func TestSocketsCanListen(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	old, err := net.Listen("unix", filepath.Join(dir, "old"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ socket, says string }{
		{`listen = "unix:DIR/new"`, ""},
		{`listen = "unix:DIR/old"`, ""}, // by an agent that runs, or has been killed
		{`listen = "unix:DIR/file"`, "is there already, and is no socket"},
		{`listen = "unix:DIR/none/new"`, "the folder of target.socket DIR/none is not there"},
		{`listen = "unix:DIR/file/new"`, "is not a folder"},
		{"listen = \"unix:DIR/new\"\nuser = \"no-such-user\"", "=user: unknown user no-such-user"},
		{"listen = \"unix:DIR/new\"\ngroup = \"no-such-group\"", "=group: unknown group no-such-group"},
		{`listen = "tcp:` + taken.Addr().String() + `"`, ""},
		{`listen = "tcp:192.0.2.1:8080"`, "cannot listen on 192.0.2.1, which may be no address of this machine"},
	} {
		cfg, err := loadText(t, held+strings.ReplaceAll(c.socket, "DIR", dir)+"\n")
		if err != nil {
			t.Fatal(err)
		}
		looked := 0
		for _, f := range cfg.CheckMachine(t.Context()) {
			if f.Subject == socketKey {
				looked++
				whole, isWhole := strings.CutPrefix(c.says, "=")
				if f.OK != (c.says == "") || !strings.Contains(f.Message, strings.ReplaceAll(whole, "DIR", dir)) || isWhole && f.Message != whole {
					t.Errorf("%s: %+v, want %q", c.socket, f, c.says)
				}
			}
		}
		if looked != 1 {
			t.Errorf("%s: looked %d times", c.socket, looked)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
		t.Error("the check has made a socket")
	}
}

// A port that somebody else has is told of, and one that is free is left so.
func TestPortsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg, err := loadText(t, held+`listen = "tcp:`+taken.Addr().String()+"\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if found := cfg.Taken(t.Context()); len(found) != 1 || !found[0].Doubt || !strings.Contains(found[0].Message, "somebody listens there") || found[0].Hint == "" {
		t.Errorf("taken: %+v", found)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if found := cfg.Taken(t.Context()); len(found) != 0 {
		t.Errorf("free: %+v", found)
	}
}

// A program that is there needs another remedy than one that is not.
func TestNotExecutable(t *testing.T) {
	script := filepath.Join(t.TempDir(), "noexec.sh")
	write(t, script, "#!/bin/sh\n")
	if err := (Target{}).findCommand([]string{script}); err == nil || !strings.Contains(err.Error(), "mend it with: chmod +x "+script+", or change the key") {
		t.Error(err)
	}
}

// A folder that cannot be written to has a remedy, too.
func TestCannotWrite(t *testing.T) {
	dir := t.TempDir()
	// A user may be called nobody.
	if err := cannotWrite(dir, fs.ErrPermission); !strings.Contains(err.Error(), fmt.Sprintf("that the user %q can write to", myName())) {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if writable(dir) == nil {
		t.Skip("this user can write to every folder")
	}
	for _, err := range []error{canMake(filepath.Join(dir, "new")), canMakeSocket(filepath.Join(dir, "new"))} {
		if err == nil || !strings.Contains(err.Error(), "cannot write to "+dir+": permission denied; mend it with: another folder") {
			t.Error(err)
		}
	}
}
