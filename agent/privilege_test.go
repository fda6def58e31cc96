//go:build linux

package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"patchagent/agent/record"
)

// Users and groups that exist nowhere else.
const (
	ordinary  = 61234 // an ordinary user
	dropper   = 61235 // another
	dropGroup = 61300 // of those who may drop
)

// A place is a machine's worth of folders for one real agent: app/ is the tree, and
// all of it can be entered by any user.
type place struct {
	t   *testing.T
	dir string
	log string
}

// newPlace skips where users cannot be changed. The tree belongs to uid.
func newPlace(t *testing.T, uid int, toml string) *place {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can run an agent as somebody else")
	}
	for _, name := range []string{"unshare", "mount", "setpriv"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace can be made here: %s", out)
	}
	dir, err := os.MkdirTemp("", "place-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &place{t: t, dir: dir, log: filepath.Join(dir, "agent.log")}
	exe, err := os.Executable()
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(p.in("bin"), 0o755))
	}
	for _, name := range []string{"patchagent", "service"} {
		if err == nil && os.Link(exe, p.in("bin", name)) != nil {
			err = exec.Command("cp", exe, p.in("bin", name)).Run()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	p.write("agent.toml", 0o644, toml)
	p.write("app/version", 0o644, "1\n")
	p.write("app/res/kept", 0o640, "old\n")
	p.own(uid, uid, ".", "app")
	return p
}

func (p *place) in(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}

func (p *place) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) write(name string, mode fs.FileMode, text string) {
	p.t.Helper()
	p.check(errors.Join(os.MkdirAll(filepath.Dir(p.in(name)), 0o755), os.WriteFile(p.in(name), []byte(text), mode), os.Chmod(p.in(name), mode)))
}

func (p *place) read(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(p.in(name))
	p.check(err)
	return string(data)
}

// own gives the place's folder, or all below the others, to a user.
func (p *place) own(uid, gid int, names ...string) {
	p.t.Helper()
	for _, name := range names {
		if name == "." {
			p.check(os.Lchown(p.dir, uid, gid))
			continue
		}
		p.check(filepath.WalkDir(p.in(name), func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, uid, gid))
		}))
	}
}

// The parts of a command that starts an agent.
var (
	// As ProtectSystem=strict has it: all is read-only but the one folder.
	onlyHere = []string{"unshare", "-m", "--propagation", "private", "sh", "-ec", `mount --bind . .; mount -o remount,bind,ro /; cd "$PWD"; exec "$@"`, "sh"}

	noRights = []string{"setpriv", "--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"}
)

// as is an ordinary user without any right, with these groups.
func as(uid, gid int, groups ...string) []string {
	add := []string{"--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(gid), "--clear-groups"}
	if len(groups) > 0 {
		add[len(add)-1] = "--groups=" + strings.Join(groups, ",")
	}
	return slices.Concat(noRights, add)
}

// start runs an agent until the end of the test; the words before it say how. It
// returns when its process has started.
func (p *place) start(how ...[]string) int {
	p.t.Helper()
	pid := p.launch(append(slices.Concat(how...), p.in("bin/patchagent")))
	p.until("the process to be up", func() bool { return strings.Contains(p.said(), "process is up") })
	return pid
}

// launch runs a command in the place until the end of the test.
func (p *place) launch(words []string) int {
	p.t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PATH="+p.in("bin")+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	log, err := os.Create(p.log)
	p.check(err)
	defer log.Close()
	cmd.Stderr = log
	p.check(cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if p.t.Failed() {
			p.t.Logf("the agent said:\n%s", p.said())
		}
	})
	return cmd.Process.Pid
}

func (p *place) said() string {
	data, _ := os.ReadFile(p.log)
	return string(data)
}

func (p *place) until(what string, yes func() bool) {
	p.t.Helper()
	if !eventually(p.t.Context(), yes) {
		p.t.Fatalf("waited for %s", what)
	}
}

// pack makes a zip of name → text, and its checksum beside it, outside the folder.
func (p *place) pack(name string, files map[string]string) {
	p.t.Helper()
	all := fstest.MapFS{}
	for file, text := range files {
		all[file] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	var data bytes.Buffer
	w := zip.NewWriter(&data)
	p.check(errors.Join(w.AddFS(all), w.Close()))
	sum, err := sumLine(bytes.NewReader(data.Bytes()), name)
	p.check(err)
	p.write("packed/"+name, 0o644, data.String())
	p.write("packed/"+name+".sha256", 0o644, sum)
}

// drop packs the files and puts them into the folder, as somebody may do; without
// somebody as root. It returns the outcome, with its reason, and its detail.
func (p *place) drop(name string, files map[string]string, somebody ...string) (outcome, detail string) {
	p.t.Helper()
	p.pack(name, files)
	script := fmt.Sprintf("for f in %[1]s.sha256 %[1]s; do cp packed/$f patch/.$f; mv patch/.$f patch/$f; done", name)
	cmd := exec.Command("sh", "-ec", script)
	if len(somebody) > 0 {
		cmd = exec.Command(somebody[0], append(somebody[1:], "sh", "-ec", "umask 027; "+script)...)
	}
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	var r record.Receipt
	p.until("the outcome of "+name, func() bool {
		all, err := record.Read(p.in(".patchagent"))
		at := slices.IndexFunc(all, func(r record.Receipt) bool { return r.Patch == name })
		if err != nil || at < 0 {
			return false
		}
		r = all[at]
		_, err = os.Lstat(p.in(".patchagent", claimsName, r.ID))
		return errors.Is(err, fs.ErrNotExist)
	})
	return strings.TrimSpace(string(r.Outcome) + " " + string(r.Reason)), r.Detail
}

// tree is all below a folder: kind, mode, owner and content.
func (p *place) tree(name string) map[string]string {
	p.t.Helper()
	all := map[string]string{}
	p.check(filepath.WalkDir(p.in(name), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var text []byte
		if info.Mode().IsRegular() {
			if text, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		st := info.Sys().(*syscall.Stat_t)
		all[strings.TrimPrefix(path, p.dir)] = fmt.Sprintf("%v %d:%d %q", info.Mode(), st.Uid, st.Gid, text)
		return nil
	}))
	return all
}

// status is proc_pid_status(5).
func (p *place) status(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		all[name] = strings.Join(strings.Fields(value), " ")
	}
	return all
}

func (p *place) want(got map[string]string, want map[string]string) {
	p.t.Helper()
	some := map[string]string{}
	for name := range want {
		some[name] = got[name]
	}
	if diff := cmp.Diff(want, some); diff != "" {
		p.t.Errorf("want, got:\n%s", diff)
	}
}

const plainConfig = `
region = "us-east-1"
build = 200
[target]
root = "app"
command = ["service"]
[target.ready]
exec = ["sh", "-c", "tail -n 1 service.log | grep -q ^start"]
`

// packages that are applied warm and cold, and one that is rolled back.
func warmPackage() map[string]string {
	return map[string]string{
		"manifest.json": `{"justres": true, "region": "us-east-1", "build": 201, "modfiles": [{"name": "version", "path": "/"}, {"name": "kept", "path": "res"}], "newfiles": [{"name": "new/deep/file", "path": "/"}]}`,
		"mod/version":   "2\n", "mod/kept": "new\n", "new/new/deep/file": "new\n",
	}
}

func coldPackage() map[string]string {
	return map[string]string{"manifest.json": `{"region": "us-east-1", "build": 202, "modfiles": [{"name": "version", "path": "/"}]}`, "mod/version": "3\n"}
}

func brokenPackage() map[string]string {
	return map[string]string{"manifest.json": `{"region": "us-east-1", "build": 203, "modfiles": [{"name": "version", "path": "/"}, {"name": "kept", "path": "res"}]}`, "mod/version": "broken\n", "mod/kept": "broken\n"}
}

// stories are applied warm, applied cold, rolled back: each with the outcome and the
// tree that are expected. The tree belongs to uid, before and after.
func (p *place) stories(uid, gid int, somebody ...string) {
	p.t.Helper()
	tree := func(version, kept string) map[string]string {
		file := fmt.Sprintf("-rw-r--r-- %d:%d ", uid, gid)
		return map[string]string{"/app/version": file + strconv.Quote(version), "/app/res/kept": fmt.Sprintf("-rw-r----- %d:%d %q", uid, gid, kept)}
	}
	if got, detail := p.drop("warm.zip", warmPackage(), somebody...); got != "applied" {
		p.t.Fatalf("warm: %s, %s", got, detail)
	}
	p.until("the process to be told", func() bool { return strings.Contains(p.read("app/service.log"), "told 2\n") })
	p.want(p.tree("app"), tree("2\n", "new\n"))
	if got, detail := p.drop("cold.zip", coldPackage(), somebody...); got != "applied" {
		p.t.Fatalf("cold: %s, %s", got, detail)
	}
	p.want(p.tree("app"), tree("3\n", "new\n"))
	if got, detail := p.drop("broken.zip", brokenPackage(), somebody...); got != "rolled-back start-failed" {
		p.t.Fatalf("broken: %s, %s", got, detail)
	}
	p.want(p.tree("app"), tree("3\n", "new\n"))
	if log := p.read("app/service.log"); log != "start 1\ntold 2\nstop 2\nstart 3\nstop 3\nstart 3\n" {
		p.t.Errorf("%q", log)
	}
}

func (p *place) statusOf(pid int) map[string]string {
	p.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	p.check(err)
	return p.status(string(data))
}

func (p *place) processID() int {
	p.t.Helper()
	_, rest, _ := strings.Cut(p.read(".patchagent/process.json"), `"pid":`)
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	pid, err := strconv.Atoi(rest[:max(0, digits)])
	p.check(err)
	return pid
}

// noCapabilities are the lines of a process that has none, and can get none.
func noCapabilities() map[string]string {
	const none = "0000000000000000"
	return map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none}
}

// An agent that is an ordinary user, without any right and with nothing that it can
// write but its own folder, does all of its work, for droppers who are somebody else.
func TestOrdinaryUser(t *testing.T) {
	p := newPlace(t, ordinary, plainConfig)
	p.check(errors.Join(os.Mkdir(p.in("patch"), 0o755), os.Lchown(p.in("patch"), ordinary, dropGroup), os.Chmod(p.in("patch"), 0o770|fs.ModeSetgid)))
	pid := p.start(onlyHere, as(ordinary, ordinary, strconv.Itoa(dropGroup)), []string{"sh", "-c", `umask 027; exec "$@"`, "sh"})
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil || !strings.Contains(string(mounts), " / / ro,") || !strings.Contains(string(mounts), " "+p.dir+" rw,") {
		t.Fatalf("the rest is not read-only (%v):\n%s", err, mounts)
	}
	p.stories(ordinary, ordinary, as(dropper, dropGroup)...)

	user := strconv.Itoa(ordinary)
	want := noCapabilities()
	maps.Copy(want, map[string]string{"CapBnd": want["CapEff"], "NoNewPrivs": "1", "Uid": strings.Join([]string{user, user, user, user}, " ")})
	p.want(p.statusOf(pid), want)
	p.want(p.statusOf(p.processID()), want)

	// Whoever dropped it can read how it ended.
	words := append(as(dropper, dropGroup), "cat", p.in("patch/rejected/broken.zip.reason.txt"))
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), "start-failed") {
		t.Errorf("%v: %s", err, out)
	}
	p.want(p.tree("app"), map[string]string{"/app/new/deep": fmt.Sprintf("drwxr-xr-x %d:%d %q", ordinary, ordinary, "")})

	// But not ask the agent, and is told why.
	ask := append(as(dropper, dropGroup), p.in("bin/patchagent"), "status", "-c", p.in("agent.toml"))
	if out, _ := exec.Command(ask[0], ask[1:]...).CombinedOutput(); !strings.Contains(string(out), "cannot ask the agent: open "+p.in(".patchagent")+": permission denied; run this command as its user") {
		t.Errorf("%s", out)
	}
}

// What belongs to somebody else is left alone, and the tree is as it was.
func TestFilesOfSomebodyElse(t *testing.T) {
	for _, test := range []struct {
		name  string
		make  func(p *place)
		ends  string
		wants []string // in the detail
	}{
		{"file", func(p *place) { p.own(0, 0, "app/res/kept"); p.check(os.Chmod(p.in("app/res/kept"), 0o644)) }, "rolled-back commit-failed",
			[]string{"cannot keep the owner of res/kept: it belongs to user 0 and group 0", "operation not permitted", "target.user"}},
		{"group", func(p *place) { p.check(os.Lchown(p.in("app/res/kept"), ordinary, dropGroup)) }, "rolled-back commit-failed",
			[]string{"cannot keep the owner of res/kept: it belongs to user 61234 and group 61300", "operation not permitted"}},
		{"folder", func(p *place) { p.check(os.Lchown(p.in("app/res"), 0, 0)) }, "rolled-back commit-failed",
			[]string{"cannot put the new files into place: res/kept", "permission denied"}},
		{"unreadable", func(p *place) { p.own(0, 0, "app/res/kept"); p.check(os.Chmod(p.in("app/res/kept"), 0o600)) }, "rejected drift",
			[]string{"cannot read res/kept", "permission denied"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPlace(t, ordinary, plainConfig)
			test.make(p)
			p.start(as(ordinary, ordinary))
			before := p.tree("app")
			got, detail := p.drop("warm.zip", warmPackage())
			if got != test.ends {
				t.Errorf("%s: %s", got, detail)
			}
			for _, want := range test.wants {
				if !strings.Contains(detail, want) {
					t.Errorf("%q is not in: %s", want, detail)
				}
			}
			after := p.tree("app")
			for _, all := range []map[string]string{before, after} {
				delete(all, "/app/service.log")
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("before, after:\n%s", diff)
			}
			if log := p.read("app/service.log"); log != "start 1\n" && log != "start 1\ntold 1\n" {
				t.Errorf("%q", log)
			}
		})
	}
}
