package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// As process 1 of a container the agent collects whatever ends there as an orphan, and
// ends with all of it when it is told to.
func TestProcessOne(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a namespace of processes")
	}
	u := newUser(t)
	u.write("agent.toml", "region = \"us-east-1\"\nbuild = 200\n[target]\ncommand = [\"bin/app\"]\n")
	u.write("version", "1\n")
	u.write("bin/app", `#!/bin/sh
(setsid sh -c 'echo $$ >orphan; while [ ! -e go ]; do sleep 0.01; done' &)
while [ ! -s orphan ]; do sleep 0.01; done
(orphan=$(cat orphan); while [ -e /proc/$orphan ]; do sleep 0.01; done; echo $orphan >collected) &
exec service
`)
	u.agent = exec.Command("sh", "-ec", "mount --make-rprivate /; mount -t proc proc /proc; exec ./patchagent")
	u.agent.Dir = u.dir
	u.agent.Stdout, u.agent.Stderr = &u.log, &u.log
	u.agent.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if err := u.agent.Start(); err != nil {
		t.Skipf("no namespace of processes can be made here: %v", err)
	}
	defer func() { _ = u.agent.Process.Kill(); _ = u.agent.Wait() }()
	u.until("process is up")
	if !strings.Contains(u.log.String(), "pid=1\n") {
		t.Fatalf("it is not process 1:\n%s", u.log.String())
	}
	u.write("go", "")
	if !eventually(t.Context(), func() bool {
		_, err := os.Stat(filepath.Join(u.dir, "collected"))
		return err == nil
	}) {
		t.Errorf("the orphan stays a zombie:\n%s", u.log.String())
	}
	said := func() string { log, _ := os.ReadFile(filepath.Join(u.dir, "service.log")); return string(log) }
	if !eventually(t.Context(), func() bool { return strings.Contains(said(), "start 1") }) {
		t.Fatalf("the service does not listen to signals:\n%s", u.log.String())
	}
	if err := u.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := u.agent.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, u.log.String())
	}
	if !strings.HasSuffix(said(), "stop 1\n") {
		t.Errorf("%q", said())
	}
}
