package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"patchagent/agent/record"
)

// rooted is service once it has become root for good, as its file allows it.
func rooted() {
	if syscall.Setresuid(0, 0, 0) != nil {
		os.Exit(8)
	}
	service()
}

const rootedConfig = `
region = "us-east-1"
build = 200
[target]
root = "app"
command = ["rooted"]
[target.reload]
exec = ["true"]
[target.ready]
exec = ["sh", "-c", "tail -n 1 service.log | grep -q ^start"]
`

// newRooted is a place whose agent may not signal its process.
func newRooted(t *testing.T) *place {
	t.Helper()
	p := newPlace(t, ordinary, rootedConfig)
	var fs unix.Statfs_t
	if err := unix.Statfs(p.dir, &fs); err != nil || fs.Flags&unix.ST_NOSUID != 0 {
		t.Skipf("no program becomes another user here: %v", err)
	}
	from, err := os.Open(p.in("bin/service"))
	p.check(err)
	defer from.Close()
	to, err := os.OpenFile(p.in("bin/rooted"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	p.check(err)
	defer to.Close()
	_, err = io.Copy(to, from)
	p.check(err)
	p.check(to.Chown(0, ordinary))
	p.check(to.Chmod(0o750 | os.ModeSetuid))
	p.check(to.Close())
	t.Cleanup(func() { // when the agent has ended, which leaves it
		left, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, exe := range left {
			var pid int
			if target, _ := os.Readlink(exe); target == p.in("bin/rooted") {
				_, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid)
				p.check(err)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	return p
}

// A process that the agent may not signal goes on as it was: the patch that was to stop it
// is undone, and others have their turn, also of the next agent.
func TestProcessThatMayNotBeStopped(t *testing.T) {
	p := newRooted(t)
	user := as(ordinary, ordinary)[len(noRights):] // a program may give it rights
	user = append([]string{noRights[0]}, user...)
	agent := p.start(user)
	pid := p.processID()
	status := p.statusOf(pid)
	if status["Uid"] != "0 0 0 0" {
		t.Skipf("it has not become root: %s", status["Uid"])
	}
	if got, detail := p.drop("cold.zip", coldPackage()); got != "rolled-back stop-failed" || !strings.Contains(detail, "operation not permitted") {
		t.Fatalf("cold: %s, %s", got, detail)
	}
	receipts, err := record.Read(p.in(".patchagent"))
	p.check(err)
	if away := receipts[0].DowntimeMS; away != 0 {
		t.Errorf("it was away for %d ms, they say", away)
	}
	if got, detail := p.drop("warm.zip", warmPackage()); got != "applied" {
		t.Fatalf("warm: %s, %s", got, detail)
	}

	end := func(agent int) {
		t.Helper()
		p.check(unix.Kill(agent, unix.SIGKILL))
		p.until("the end of the agent", func() bool { return unix.Kill(agent, 0) != nil })
	}
	end(agent)
	state := p.read(".patchagent/process.json")
	if !strings.Contains(state, `"stopping":false`) {
		t.Errorf("on record is %s", state)
	}
	// One that was killed in the middle of the stop has put that on record.
	p.check(os.WriteFile(p.in(".patchagent/process.json"), []byte(strings.Replace(state, `"stopping":false`, `"stopping":true`, 1)), 0))
	p.launch(append(user, p.in("bin/patchagent")))
	p.until("the process to be taken over", func() bool { return strings.Contains(p.said(), "process taken over") })
	if !strings.Contains(p.said(), "the process cannot be stopped, and is kept as it is") {
		t.Errorf("the agent said:\n%s", p.said())
	}
	if got, detail := p.drop("again.zip", warmPackage()); got != "applied" || p.processID() != pid {
		t.Errorf("again: %s, %s; pid %d, %d before", got, detail, p.processID(), pid)
	}
	if log := p.read("app/service.log"); log != "start 1\n" {
		t.Errorf("%q", log)
	}
}
