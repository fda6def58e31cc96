package config

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Two folders of one filesystem that are mounted each by itself are refused, and what
// is said instead is accepted. The test runs in a program with mounts of its own.
func TestOtherMount(t *testing.T) {
	const inside = "CONFIG_TEST_MOUNTS"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOtherMount$", "-test.v")
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
		case bytes.Contains(out, []byte("--- SKIP: ")):
			t.Skipf("%s", out)
		case !bytes.Contains(out, []byte("--- PASS: TestOtherMount ")):
			t.Errorf("the test has not run:\n%s", out)
		}
		return
	}
	dir := t.TempDir()
	root, state := filepath.Join(dir, "app"), filepath.Join(dir, "state")
	for _, path := range []string{root, state} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	check := func(state string) error {
		t.Helper()
		cfg, err := loadText(t, fmt.Sprintf("%sroot = %q\n[patch]\ndir = %q\n[state]\ndir = %q\n", base, root, dir+"/patches", state))
		if err != nil {
			t.Fatal(err)
		}
		return cfg.CheckFolders()
	}
	bind := func(path string) {
		t.Helper()
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("mounting is not possible here: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
	bind(dir)
	if err := check(state); err != nil {
		t.Errorf("below one mount: %v", err)
	}
	bind(root)
	bind(state)
	// That the state folder is not there yet makes no difference.
	for _, state := range []string{state, dir + "/not/there"} {
		err := check(state)
		if err == nil || !strings.Contains(err.Error(), "different mounts") || !strings.Contains(err.Error(), "ReadWritePaths=") ||
			!strings.Contains(err.Error(), fmt.Sprintf("state.dir = %q", root+"/.patchagent")) {
			t.Errorf("%s: %v", state, err)
		}
	}
	if err := check(root + "/.patchagent"); err != nil {
		t.Errorf("the hint is refused: %v", err)
	}
}
