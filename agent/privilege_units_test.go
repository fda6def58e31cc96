//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"patchagent/agent/config"
)

var units = []string{"patchagent.service", "patchagent-root.service"}

// unit is a file of examples/systemd: what is set in it.
func unit(t *testing.T, name string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(read(t, filepath.Join("examples/systemd", name))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			if _, twice := all[key]; twice {
				t.Errorf("%s has %s twice", name, key)
			}
			all[key] = value
		}
	}
	return all
}

func TestUnits(t *testing.T) {
	cfg, err := config.Load("../agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range units {
		u := unit(t, name)
		for key, want := range map[string]string{
			"KillMode": "process", "Restart": "on-failure", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ReadWritePaths": "/srv/app",
			"SystemCallFilter": "@system-service", "ExecReload": "/bin/kill -HUP $MAINPID",
			"Type": "notify", "NotifyAccess": "main", "Delegate": "yes", "ProtectControlGroups": "no",
		} {
			if u[key] != want {
				t.Errorf("%s: %s=%s, want %s", name, key, u[key], want)
			}
		}
		if _, ok := u["ExecStartPre"]; ok {
			t.Errorf("%s: a tree that a crash has left half-way must not keep the agent from starting", name)
		}
		if n, err := strconv.Atoi(u["FileDescriptorStoreMax"]); err != nil || n < 64 {
			t.Errorf("%s: FileDescriptorStoreMax=%s is less than there can be sockets", name, u["FileDescriptorStoreMax"])
		}
		const afterKill = 5 * time.Second
		if d, err := time.ParseDuration(u["TimeoutStopSec"]); err != nil || d <= time.Duration(cfg.Target.StopTimeout)+afterKill {
			t.Errorf("%s: TimeoutStopSec=%s, %v", name, u["TimeoutStopSec"], err)
		}
	}
}

// systemd has nothing to say about the units.
func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, name := range units {
		path := filepath.Join(t.TempDir(), name)
		thereIs := strings.NewReplacer("/usr/local/bin/patchagent", "/bin/true", "/bin/kill", "/bin/true")
		text := thereIs.Replace(read(t, filepath.Join("examples/systemd", name)))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// capabilities is how setpriv leaves just those that the unit does.
func capabilities(t *testing.T, without string) []string {
	t.Helper()
	var set strings.Builder
	set.WriteString("-all")
	for name := range strings.FieldsSeq(unit(t, "patchagent-root.service")["CapabilityBoundingSet"]) {
		if name != without {
			set.WriteString(",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_")))
		}
	}
	return []string{"setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", set.String()}
}

// An agent that is root works on the tree of target.user with the capabilities that
// the unit leaves it, and in the read-only rest of the machine.
func TestRootUnit(t *testing.T) {
	p := newPlace(t, 0, strings.Replace(plainConfig, "[target]", "[target]\nuser = \"app\"", 1))
	p.tables()
	p.own(appUser, appGroup, "app")
	pid := p.start(usersTables, onlyHere, capabilities(t, ""))
	p.stories(appUser, appGroup)
	if agent := p.statusOf(pid); agent["CapEff"] != agent["CapBnd"] || strings.Count(agent["CapEff"], "0") < 10 {
		t.Errorf("%v", agent)
	}
	p.want(p.statusOf(p.processID()), noCapabilities())
}

// Without any one of them something does not work.
func TestRootUnitNeedsItsCapabilities(t *testing.T) {
	if testing.Short() {
		t.Skip("not in a short run")
	}
	for name, broken := range map[string]string{
		"CAP_SETUID": "cannot run as app", "CAP_SETGID": "cannot run as app", "CAP_DAC_OVERRIDE": "permission denied",
		"CAP_CHOWN": "cannot keep the owner of", "CAP_FOWNER": "cannot keep the mode of", "CAP_KILL": "outcome=rolled-back reason=reload-failed detail=\"the process could not be told: cannot signal pid",
		"CAP_LEASE": "it cannot be known yet",
	} {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(strings.Fields(unit(t, "patchagent-root.service")["CapabilityBoundingSet"]), name) {
				t.Fatal("the unit does not have it")
			}
			p := newPlace(t, 0, strings.Replace(plainConfig, "[target]", "[target]\nuser = \"app\"", 1))
			p.tables()
			p.own(appUser, appGroup, "app")
			p.pack("warm.zip", warmPackage())
			for _, file := range []string{"warm.zip.sha256", "warm.zip"} {
				p.write(filepath.Join("patch", file), 0o644, p.read(filepath.Join("packed", file)))
				p.own(dropper, dropGroup, filepath.Join("patch", file))
			}
			words := slices.Concat(usersTables, capabilities(t, name), []string{p.in("bin/patchagent")})
			if name == "CAP_KILL" {
				t.Cleanup(func() { _ = signalTo(p.processID(), syscall.SIGKILL) }) // when the agent has given up
			}
			p.launch(words)
			p.until(fmt.Sprintf("%q in the log", broken), func() bool { return strings.Contains(p.said(), broken) })
		})
	}
}

// Two mounts of one filesystem are refused before anything is begun, and not by a
// rename in the middle of a patch.
func TestTwoMounts(t *testing.T) {
	p := newPlace(t, 0, plainConfig)
	p.launch([]string{"unshare", "-m", "--propagation", "private", "sh", "-ec", `mount --bind app app; exec "$@"`, "sh", p.in("bin/patchagent")})
	p.until("a word of it", func() bool { return strings.Contains(p.said(), "below different mounts") })
}

// A set-id bit that cannot be kept is said, and not lost.
func TestSetIDIsKeptOrRefused(t *testing.T) {
	for name, want := range map[string]string{"CAP_FSETID": "applied", "": "rolled-back commit-failed"} {
		p := newPlace(t, 0, strings.Replace(plainConfig, "[target]", "[target]\nuser = \"app\"", 1))
		p.tables()
		p.own(appUser, appGroup, "app")
		p.check(os.Chmod(p.in("app/res/kept"), 0o750|os.ModeSetgid))
		how := capabilities(t, "")
		if name != "" {
			how[len(how)-1] += ",+fsetid"
		}
		p.start(usersTables, how)
		got, detail := p.drop("warm.zip", warmPackage())
		if got != want || name == "" && !strings.Contains(detail, "cannot keep the mode of res/kept") {
			t.Errorf("%q: %s, %s", name, got, detail)
		}
		if info, err := os.Stat(p.in("app/res/kept")); err != nil || info.Mode() != 0o750|os.ModeSetgid {
			t.Errorf("%q: %v, %v", name, info.Mode(), err)
		}
	}
}
