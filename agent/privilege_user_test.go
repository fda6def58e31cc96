//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The user app of the tests, as it is in the tables that only the agent sees.
const (
	appUser   = 61240
	appGroup  = 61310
	appMember = 61311 // a group that app is a member of
)

// usersTables has the command after it see these tables of users and groups.
var usersTables = []string{"unshare", "-m", "--propagation", "private", "sh", "-ec",
	`mount --bind etc/passwd /etc/passwd; mount --bind etc/group /etc/group; exec "$@"`, "sh"}

func (p *place) tables() {
	p.t.Helper()
	p.write("etc/passwd", 0o644, fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\napp:x:%d:%d::/home/of/app:/bin/sh\n", appUser, appGroup))
	p.write("etc/group", 0o644, fmt.Sprintf("root:x:0:\napp:x:%d:\nmembers:x:%d:app\nothers:x:61312:root\n", appGroup, appMember))
}

// shows are five commands of one agent.toml, each of which puts down what it is given.
var shows = []string{"process", "reload", "precheck", "ready", "health"}

func show(name, then string) string {
	return fmt.Sprintf(`["/bin/sh", "-c", "for f in environ status; do cat /proc/$$/$f >seen/%[1]s.$f; done; readlink /proc/$$/fd/* >seen/%[1]s.fd & wait; %[2]s"]`, name, then)
}

func showConfig(more string) string {
	return fmt.Sprintf(`
region = "us-east-1"
build = 200
[target]
root = "app"
%s
command = %s
[target.env]
MINE = "yes"
[target.reload]
exec = %s
precheck = %s
[target.ready]
exec = %s
[target.health]
exec = %s
window = "10ms"
interval = "10ms"
`, more, show("process", "exec service"), show("reload", "true"), show("precheck", "true"), show("ready", "true"), show("health", "true"))
}

// unwelcome is what the agent is started with and nothing else is to see: variables
// that turn programs, secrets, a service manager's word, and open files.
var unwelcome = []string{"env", "LD_LIBRARY_PATH=/unwelcome", "BASH_ENV=/unwelcome", "ENV=/unwelcome", "IFS=x", "PYTHONPATH=/unwelcome", "PERL5OPT=-Mhostile",
	"NOTIFY_SOCKET=/unwelcome", "LISTEN_FDS=1", "LISTEN_PID=1", "INVOCATION_ID=unwelcome", "CREDENTIALS_DIRECTORY=/unwelcome", "SECRET_TOKEN=unwelcome",
	"GODEBUG=execerrdot=0", "GOGC=50", "SSH_AUTH_SOCK=/unwelcome", "http_proxy=http://unwelcome", "LC_TIME=C", "TZ=UTC"}

// given looks at what process and commands were given: the environment, in full; the
// identity; and the files that are open.
func (p *place) given(env, status map[string]string) {
	p.t.Helper()
	for _, name := range shows {
		file := func(what string) string { return p.read(filepath.Join("app/seen", name+"."+what)) }
		want := maps.Clone(env)
		got := map[string]string{}
		for pair := range strings.SplitSeq(strings.Trim(file("environ"), "\x00"), "\x00") {
			key, value, _ := strings.Cut(pair, "=")
			if strings.HasPrefix(key, "PATCHAGENT_") && name != "process" {
				continue // what it is asked about
			}
			got[key] = value
		}
		if name == "process" { // these two are the agent's own word, and no command's
			for key, like := range map[string]string{"INVOCATION_ID": `^[0-9a-f]{32}$`, "NOTIFY_SOCKET": `^/.+\.sock$`} {
				if !regexp.MustCompile(like).MatchString(got[key]) {
					p.t.Errorf("%s is %q", key, got[key])
				}
				delete(got, key)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			p.t.Errorf("environment of %s, want, got:\n%s", name, diff)
		}
		is, should := map[string]string{}, map[string]string{}
		for key, value := range p.status(file("status")) {
			is[name+" "+key] = value
		}
		for key, value := range status {
			should[name+" "+key] = value
		}
		p.want(is, should)
		var others []string
		for link := range strings.Lines(file("fd")) {
			link = strings.TrimSpace(link)
			// Its own three: nothing in, and what it prints.
			if link != "/dev/null" && !strings.HasPrefix(link, "pipe:") && !strings.HasPrefix(link, p.in(".patchagent/output.")) {
				others = append(others, link)
			}
		}
		if n := strings.Count(file("fd"), "\n"); n != 3 || len(others) > 0 {
			p.t.Errorf("%s has %d open files, of which none of its own: %q", name, n, others)
		}
	}
}

// leaking gives the command after it files that it does not know of.
var leaking = []string{"sh", "-c", `exec 5<agent.toml 9<agent.toml; exec "$@"`, "sh"}

// With target.user the process and all commands are that user, with just its groups,
// and nothing of the agent that is root.
func TestTargetUser(t *testing.T) {
	p := newPlace(t, 0, showConfig(`user = "app"`))
	p.tables()
	p.check(os.Mkdir(p.in("app/seen"), 0o755))
	p.own(appUser, appGroup, "app")
	p.start(usersTables, []string{"setpriv", "--groups=0,4,61399"}, leaking, unwelcome, []string{"PATH=:.:bin:../x:" + p.in("bin") + ":/usr/bin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "LANG=C"})
	p.askAll()
	user, group := fmt.Sprint(appUser), fmt.Sprint(appGroup)
	status := noCapabilities()
	maps.Copy(status, map[string]string{
		"Uid":    strings.Join([]string{user, user, user, user}, " "),
		"Gid":    strings.Join([]string{group, group, group, group}, " "),
		"Groups": fmt.Sprintf("%d %d", appGroup, appMember),
	})
	env := clean(p.in("bin") + ":/usr/bin:/bin")
	maps.Copy(env, map[string]string{"HOME": "/home/of/app", "USER": "app", "LOGNAME": "app", "LANG": "C"})
	p.given(env, status)
}

func clean(path string) map[string]string {
	return map[string]string{"PATH": path, "MINE": "yes", "LC_TIME": "C", "TZ": "UTC"}
}

// The same for an ordinary user, where nothing changes hands.
func TestCleanEnvironment(t *testing.T) {
	p := newPlace(t, ordinary, showConfig(""))
	p.check(os.Mkdir(p.in("app/seen"), 0o755))
	p.own(ordinary, ordinary, "app")
	p.start(as(ordinary, ordinary), leaking, []string{"env", "-i"}, unwelcome[1:], []string{"PATH=" + p.in("bin") + "::/usr/bin:/bin:.", "HOME=/my/home"})
	p.askAll()
	env := clean(p.in("bin") + ":/usr/bin:/bin")
	env["HOME"] = "/my/home"
	p.given(env, noCapabilities())
}

// askAll has all of the five commands run for a patch.
func (p *place) askAll() {
	p.t.Helper()
	p.check(errors.Join(os.Remove(p.in("app/seen/ready.environ")), os.Remove(p.in("app/seen/process.environ"))))
	if got, detail := p.drop("warm.zip", warmPackage()); got != "applied" {
		p.t.Fatalf("warm: %s, %s", got, detail)
	}
	if got, detail := p.drop("cold.zip", coldPackage()); got != "applied" {
		p.t.Fatalf("cold: %s, %s", got, detail)
	}
}

// A program that is named without a folder is not looked for in the working folder,
// whatever PATH says: there lies what patches bring.
func TestNoProgramOfTheWorkingFolder(t *testing.T) {
	p := newPlace(t, ordinary, strings.Replace(plainConfig, `["service"]`, `["service"]`+"\n[target.reload]\nexec = [\"reload-it\"]", 1))
	for _, name := range []string{"reload-it", "app/reload-it"} {
		p.write(name, 0o755, "#!/bin/sh\necho >>app/hijacked\necho >>hijacked\n")
	}
	p.write("bin/reload-it", 0o755, "#!/bin/sh\n")
	p.start(as(ordinary, ordinary), []string{"env", "GODEBUG=execerrdot=0", "PATH=.::" + p.in("bin") + ":/usr/bin:/bin"})
	if got, detail := p.drop("warm.zip", warmPackage()); got != "applied" {
		t.Fatalf("warm: %s, %s", got, detail)
	}
	for _, name := range []string{"hijacked", "app/hijacked"} {
		if _, err := os.Lstat(p.in(name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// Whatever the mask is that the agent was started with, what is private is private,
// and the tree gets the modes that are promised. The drop folder follows the mask.
func TestFileModes(t *testing.T) {
	for mask, folder := range map[string]string{"000": "drwxr-xr-x", "022": "drwxr-xr-x", "027": "drwxr-x---", "077": "drwx------"} {
		t.Run(mask, func(t *testing.T) {
			p := newPlace(t, ordinary, plainConfig)
			p.start(as(ordinary, ordinary), []string{"sh", "-c", "umask " + mask + `; exec "$@"`, "sh"})
			if got, detail := p.drop("warm.zip", warmPackage()); got != "applied" {
				t.Fatalf("warm: %s, %s", got, detail)
			}
			if got, detail := p.drop("broken.zip", brokenPackage()); got != "rolled-back start-failed" {
				t.Fatalf("broken: %s, %s", got, detail)
			}
			mode := func(name string) string {
				info, err := os.Lstat(p.in(name))
				p.check(err)
				return info.Mode().String()
			}
			got := map[string]string{}
			want := map[string]string{
				"app/new": "drwxr-xr-x", "app/new/deep": "drwxr-xr-x", "app/new/deep/file": "-rw-r--r--", "app/version": "-rw-r--r--", "app/res/kept": "-rw-r-----",
				"patch": folder, "patch/applied": folder, "patch/rejected": folder,
				"patch/rejected/broken.zip.reason.txt": "-" + strings.ReplaceAll(folder[1:], "x", "-"),
				".patchagent":                          "drwx------",
			}
			inside, err := os.ReadDir(p.in(".patchagent"))
			p.check(err)
			for _, e := range inside {
				name := filepath.Join(".patchagent", e.Name())
				switch {
				case e.IsDir():
					want[name] = "drwx------"
				case e.Type().IsRegular():
					want[name] = "-rw-------"
				}
			}
			for name := range want {
				got[name] = mode(name)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want, got:\n%s", diff)
			}
			if !slices.ContainsFunc(inside, func(e os.DirEntry) bool { return e.Name() == "receipts.jsonl" }) {
				t.Error("no state was looked at")
			}
		})
	}
}
