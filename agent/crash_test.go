//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/agent/record"
	"patchagent/manifest/reason"
)

// site is a folder with an agent.toml, a tree and a package.
type site struct {
	t   *testing.T
	dir string
	bin string

	at       int  // the step at which something happens
	unhooked bool // the last hook was made to fail, so it has not run
}

const crashConfig = `
region = "r"
build = 200
verify.require = "none"
[patch]
poll = "20ms"
[target]
root = "app"
command = ["service"]
output = "service.out"
env = { GORACE = "atexit_sleep_ms=0" }
[target.reload]
exec = ["sh", "tell.sh"]
[target.ready]
exec = ["sh", "-c", "tail -n1 service.log | grep -Eq '^(start|told)'"]
[target.hooks]
before_stop = ["sh", "../hook.sh"]
after_files = ["sh", "../hook.sh"]
after_start = ["sh", "../hook.sh"]
after_rollback = ["sh", "../hook.sh"]
`

// newSite lays the old tree; version is what the package makes of it.
func newSite(t *testing.T, bin, version string, warm bool) *site {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "agent-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, bin: bin}
	files := map[string]string{
		"agent.toml": crashConfig, "app/version": "old", "app/lib/b": "old b", "app/lib/gone": "gone",
		"app/tell.sh": `kill -HUP $(sed 's/.*"pid":\([0-9]*\).*/\1/' ../.patchagent/process.json) && ! grep -q unloved version`,
		"p/manifest.json": fmt.Sprintf(`{"justres": %v, "region": "r", "build": "300",
			"modfiles": [{"name": "version", "path": "/"}, {"name": "b", "path": "/lib"}],
			"newfiles": [{"name": "n", "path": "/added/deep"}], "delfiles": [{"name": "gone", "path": "/lib"}]}`, warm),
		"hook.sh":       `read version <version; echo "$PATCHAGENT_EVENT $version" >>../hooks`,
		"p/mod/version": version, "p/mod/b": "new b", "p/new/n": "n",
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, pid := range s.processes() {
			_ = signalTo(pid, syscall.SIGKILL)
		}
	})
	return s
}

// tree is the live tree without what the service itself writes.
func (s *site) tree() map[string]string {
	s.t.Helper()
	root := filepath.Join(s.dir, "app")
	got := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "service.log" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		got[name] = info.Mode().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			got[name] += " " + string(data)
			return err
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// processes are the services that run in the site.
func (s *site) processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cwd, err := os.Readlink("/proc/" + e.Name() + "/cwd")
		name, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && cwd == filepath.Join(s.dir, "app") && strings.HasPrefix(string(name), "service\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// command is the program with these arguments and a fault, see faults.
func (s *site) command(fault string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, "patchagent"), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), faultVar+"="+fault, faultFileVar+"="+filepath.Join(s.dir, "fault"), "GORACE=atexit_sleep_ms=0")
	if fault != "" {
		_ = os.Remove(filepath.Join(s.dir, "fault"))
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = log.Close() })
	cmd.Stderr = log
	return cmd
}

func (s *site) log() string {
	data, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(data)
}

func (s *site) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, name))
	return err == nil
}

// drop puts the package into the folder.
func (s *site) drop() {
	s.t.Helper()
	out, err := os.Create(filepath.Join(s.dir, "p.zip"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(zipFolder(out, filepath.Join(s.dir, "p")), out.Close(), os.MkdirAll(filepath.Join(s.dir, "patch"), 0o755),
		os.Rename(filepath.Join(s.dir, "p.zip"), filepath.Join(s.dir, "patch", "p.zip"))); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) receipts() []record.Receipt {
	all, err := record.Read(filepath.Join(s.dir, ".patchagent"))
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// settled says whether nothing is under way any more: every drop has its receipt and
// its place, and no transaction is open but, where that may be, one that failed.
func (s *site) settled(mayFail bool) bool {
	claims, err := os.ReadDir(filepath.Join(s.dir, ".patchagent", claimsName))
	receipts := s.receipts()
	return err == nil && len(claims) == 0 && !s.exists("patch/p.zip") && len(receipts) > 0 &&
		(!s.exists(".patchagent/tx/journal") || mayFail && receipts[len(receipts)-1].Outcome == reason.Failed)
}

// run runs an agent until it crashes, or until what it had to do is done; then it is
// stopped, or killed, and crashed is false. step is where the fault came, if it did.
func (s *site) run(fault string, stop bool) (crashed bool, step string) {
	s.t.Helper()
	cmd := s.command(fault, "run")
	before := len(s.log())
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	isUp := func() bool {
		return strings.Contains(s.log()[before:], "process is up") || strings.Contains(s.log()[before:], "process taken over")
	}
	gone := false
	ok := eventually(context.Background(), func() bool {
		select {
		case <-ended:
			gone = true
		default:
		}
		stuck := strings.HasSuffix(fault, "always") && strings.Contains(s.log()[before:], "trying again")
		return gone || isUp() && (stuck || s.settled(fault != ""))
	})
	if !ok {
		_ = cmd.Process.Kill()
		s.t.Fatalf("the agent does not come to an end (%s):\n%s", fault, s.log())
	}
	name, _ := os.ReadFile(filepath.Join(s.dir, "fault"))
	if gone {
		return true, string(name)
	}
	if stop {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	} else {
		_ = cmd.Process.Kill()
	}
	<-ended
	return false, string(name)
}

// stride is 1: every step. With -short, as with the race detector, it is every fifth.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// programs is a folder with the agent and the service: this test binary under their names.
func programs(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"patchagent", "service"} {
		if err := os.Symlink(exe, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The scenarios of a patch, and how each has to end when nothing lasting is wrong.
var scenarios = map[string]struct {
	version string
	warm    bool
	outcome string
	last    string // what the service has seen last
}{
	"warm": {"new", true, "applied", "told new|start new"}, "cold": {"new", false, "applied", "start new"},
	"rolls back":           {"broken", false, "rolled-back start-failed", "start old"},
	"warm, and rolls back": {"unloved", true, "rolled-back reload-failed", "start old|told old"},
}

// The real agent is killed at each of its steps, and its successor at some of its
// own; then the tree is exactly one build, one process runs on it and has been told,
// and the drop has one receipt.
func TestKilledAtEveryStep(t *testing.T) {
	bin := programs(t)
	for name, c := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for first, more := 0, true; more; first += stride() {
				hook := false
				for _, second := range []int{-1, first % 7} {
					if second >= 0 && hook {
						break // its successor finds what it finds at the step after the hook, too
					}
					s := newSite(t, bin, c.version, c.warm)
					s.at = first
					before := s.tree()
					s.drop()
					crashed, step := s.run(fmt.Sprint(first, " kill once"), false)
					if !crashed {
						more = false
						break
					}
					when := fmt.Sprintf("killed at step %d (%s)", first, step)
					hook = strings.HasPrefix(step, "hook ")
					if second >= 0 {
						_, step := s.run(fmt.Sprint(second, " kill once"), false)
						when += fmt.Sprintf(", then at step %d (%s)", second, step)
					}
					s.judge(when, before, c.outcome, c.last)
				}
			}
		})
	}
}

// Each step of the real agent fails once, with a full disk and with a broken one; or
// all from that step on. Then it gets a successor for which the disk is mended.
func TestEveryStepFails(t *testing.T) {
	bin := programs(t)
	for name, c := range scenarios {
		for _, how := range []string{"ENOSPC once", "SYNC once", "EIO always"} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				for at, more := 0, true; more; at += stride() {
					s := newSite(t, bin, c.version, c.warm)
					s.at = at
					before := s.tree()
					s.drop()
					ended, step := s.run(fmt.Sprint(at, " ", how), false)
					if ended && !strings.Contains(s.log(), "what became of p.zip is not said") {
						t.Fatalf("%s at step %d: it ended:\n%s", how, at, s.log())
					}
					if more = step != ""; !more {
						break
					}
					outcome, last := c.outcome, c.last
					var r record.Receipt
					if all := s.receipts(); len(all) > 0 {
						r = all[0]
					}
					if r.Outcome != "" && r.Outcome != reason.Applied && strings.HasPrefix(outcome, "applied") {
						outcome, last = strings.TrimSpace(string(r.Outcome)+" "+string(r.Reason)), "start old|told old"
					}
					if r.Outcome == reason.Failed || r.Outcome == reason.Rejected || r.Reason == reason.CommitFailed || r.Reason == reason.NoSpace {
						outcome = string(r.Outcome) + " " + string(r.Reason)
					}
					s.unhooked = step == "hook after_rollback"
					s.judge(fmt.Sprintf("%s at step %d (%s)", how, at, step), before, outcome, last)
				}
			})
		}
	}
}

// An agent that is killed before the first file changes has done nothing that has to be
// made up for: the patch begins anew, and the log does not say otherwise.
func TestKilledBeforeAnyFile(t *testing.T) {
	bin := programs(t)
	for name, c := range map[string]struct {
		warm bool
		saw  string
	}{"warm": {true, "start old\ntold new\n"}, "cold": {false, "start old\nstop old\nstart old\nstop old\nstart new\n"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, bin, "new", c.warm)
			before := s.tree()
			s.drop()
			if crashed, _ := s.run("commit kill once", false); !crashed {
				t.Fatal("it was not killed")
			}
			s.judge("afterwards", before, "applied", "told new|start new")
			hooks, _ := os.ReadFile(filepath.Join(s.dir, "hooks"))
			saw, _ := os.ReadFile(filepath.Join(s.dir, "app", "service.log"))
			if string(hooks) != "before_stop old\nbefore_stop old\nafter_files new\nafter_start new\n" || !strings.HasPrefix(string(saw), c.saw) {
				t.Errorf("hooks %q, the process has seen %q", hooks, saw)
			}
			if log := s.log(); !strings.Contains(log, "interrupted before it touched a file") || strings.Contains(log, "taken out again") {
				t.Errorf("the log:\n%s", log)
			}
		})
	}
}

// A patch that is interrupted again and again is given up: before its commit at the
// third time, after it when six agents have ended while they confirmed it.
func TestInterruptedTooOften(t *testing.T) {
	bin := programs(t)
	for step, times := range map[string]int{"commit": maxAttempts, "precheck": maxConfirms + 1} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, bin, "new", true)
			before := s.tree()
			s.drop()
			for range times {
				if crashed, _ := s.run(step+" kill once", false); !crashed {
					t.Fatalf("it was given up too early:\n%s", s.log())
				}
			}
			s.judge("in the end", before, "rolled-back interrupted", "start old|told old")
		})
	}
}

// An agent that is killed when the new build is on record, and whose successor cannot
// confirm it: the record is the old build again.
func TestRecordFollowsTheTree(t *testing.T) {
	s := newSite(t, programs(t), "new", true)
	before := s.tree()
	s.drop()
	if crashed, _ := s.run("receipt kill once", false); !crashed {
		t.Fatal("it was not killed")
	}
	build := func() string {
		data, _ := os.ReadFile(filepath.Join(s.dir, ".patchagent", "installed.json"))
		return string(data)
	}
	if !strings.Contains(build(), `"build": 300`) {
		t.Fatalf("it came not so far: %s", build())
	}
	if err := os.WriteFile(filepath.Join(s.dir, "app", "tell.sh"), []byte("grep -q old version"), 0o644); err != nil {
		t.Fatal(err)
	}
	before["/tell.sh"] = "-rw-r--r-- grep -q old version"
	s.judge("after it", before, "rolled-back reload-failed", "start old|told new")
	if !strings.Contains(build(), `"build": 200`) {
		t.Errorf("on record: %s", build())
	}
}

// A rollback by hand, by a running agent or without one, is killed at each of its
// steps: it is made or not, nothing in between, and can be asked for again.
func TestKilledInARollback(t *testing.T) {
	bin := programs(t)
	for _, alone := range []bool{true, false} {
		for _, warm := range []bool{true, false} {
			t.Run(fmt.Sprintf("alone %v, warm %v", alone, warm), func(t *testing.T) {
				t.Parallel()
				for at, more := 0, true; more; at += stride() {
					s := newSite(t, bin, "new", warm)
					before := s.tree()
					s.drop()
					s.run("", false)
					after := s.tree()
					more = s.rollBack(fmt.Sprint(at, " kill once"), alone)
					step, _ := os.ReadFile(filepath.Join(s.dir, "fault"))
					when := fmt.Sprintf("killed at step %d (%s)", at, step)

					agent := s.start("")
					undone := cmp.Equal(s.tree(), before)
					if !undone {
						if diff := cmp.Diff(after, s.tree()); diff != "" {
							t.Fatalf("%s: the tree (-new +got):\n%s", when, diff)
						}
						if out, err := s.command("", "rollback").Output(); err != nil {
							t.Fatalf("%s: and again: %v: %s\n%s", when, err, out, s.log())
						}
					}
					if diff := cmp.Diff(before, s.tree()); diff != "" {
						t.Errorf("%s: the tree (-old +got):\n%s", when, diff)
					}
					receipts := s.receipts()
					if last := receipts[len(receipts)-1]; last.Reason != reason.Requested || *last.Build != 200 || len(receipts) > 3 {
						t.Errorf("%s: receipts %+v", when, receipts)
					}
					if pids := s.processes(); len(pids) != 1 {
						t.Errorf("%s: processes %v\n%s", when, pids, s.log())
					}
					_ = agent.Process.Kill()
					_ = agent.Wait()
				}
			})
		}
	}
}

// start starts an agent and waits until it takes requests.
func (s *site) start(fault string) *exec.Cmd {
	s.t.Helper()
	cmd := s.command(fault, "run")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if !eventually(context.Background(), func() bool {
		var now status
		err := callAgent(context.Background(), filepath.Join(s.dir, ".patchagent"), http.MethodGet, "/status", nil, &now)
		return err == nil && now.Agent.PID == cmd.Process.Pid && now.Agent.Watching
	}) {
		s.t.Fatalf("the agent takes no requests:\n%s", s.log())
	}
	return cmd
}

// rollBack asks for a rollback, in which the program is killed; it says whether it was.
func (s *site) rollBack(fault string, alone bool) (killed bool) {
	s.t.Helper()
	if alone {
		cmd := s.command(fault, "rollback")
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode() < 0
	}
	agent := s.start(fault)
	ask := s.command("", "rollback")
	err := ask.Run()
	_ = agent.Process.Kill() // in case it was not
	_ = agent.Wait()
	return err != nil
}

// stopEvery is at every how manyth step the agent and its process are stopped in order
// afterwards: an agent more, and what it stops does not know of the step any more.
const stopEvery = 4

// judge starts an agent that nothing happens to, and looks at how it leaves things.
func (s *site) judge(when string, before map[string]string, outcome, last string) {
	s.t.Helper()
	if crashed, _ := s.run("", false); crashed {
		s.t.Fatalf("%s: the next agent ended:\n%s", when, s.log())
	}
	if pids := s.processes(); len(pids) != 1 {
		s.t.Errorf("%s: processes %v\n%s", when, pids, s.log())
	}
	receipts := s.receipts()
	if r := receipts[0]; len(receipts) != 1 || strings.TrimSpace(string(r.Outcome)+" "+string(r.Reason)) != outcome {
		s.t.Errorf("%s: receipts %+v", when, receipts)
	}
	want := before
	if strings.HasPrefix(outcome, "applied") {
		want = map[string]string{"": "drwxr-xr-x", "/version": "-rw-r--r-- new", "/lib": "drwxr-xr-x", "/lib/b": "-rw-r--r-- new b",
			"/added": "drwxr-xr-x", "/added/deep": "drwxr-xr-x", "/added/deep/n": "-rw-r--r-- n", "/tell.sh": before["/tell.sh"]}
	}
	if diff := cmp.Diff(want, s.tree()); diff != "" {
		s.t.Errorf("%s: the tree (-want +got):\n%s", when, diff)
	}
	var said string
	if !eventually(context.Background(), func() bool {
		data, _ := os.ReadFile(filepath.Join(s.dir, "app", "service.log"))
		said = strings.TrimSpace(string(data))
		return strings.Contains("|"+last+"|", "|"+said[strings.LastIndexByte(said, '\n')+1:]+"|")
	}) {
		s.t.Errorf("%s: the process has seen this, and %s should be last:\n%s\n%s", when, last, said, s.log())
	}
	s.judgeHooks(when, outcome)
	if s.at%stopEvery != 0 {
		return
	}
	if crashed, _ := s.run("", true); crashed || len(s.processes()) != 0 {
		s.t.Errorf("%s: stopped, and %v are left\n%s", when, s.processes(), s.log())
	}
}

// judgeHooks sees to it that the last of the hooks that ran was the one for the outcome,
// on its files.
func (s *site) judgeHooks(when, outcome string) {
	s.t.Helper()
	want := "after_rollback old"
	switch word, _, _ := strings.Cut(outcome, " "); {
	case word == "rejected" || s.unhooked:
		return
	case word == "applied":
		want = "after_start new"
	}
	data, _ := os.ReadFile(filepath.Join(s.dir, "hooks"))
	if len(data) == 0 && want != "after_start new" {
		return // it came to nothing before the first of them
	}
	if !strings.HasSuffix("\n"+string(data), "\n"+want+"\n") {
		s.t.Errorf("%s: of the hooks %q the last is not %s\n%s", when, data, want, s.log())
	}
}
