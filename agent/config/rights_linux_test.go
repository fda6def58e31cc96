package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutRights runs f on a thread of its own that has no capabilities; it ends with f.
func withoutRights(t *testing.T, f func()) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread is not used again
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		err := unix.Capset(&header, &none[0])
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// What the kernel would refuse is found, and nothing else.
func TestRights(t *testing.T) {
	raw, err1 := unix.Getpriority(unix.PRIO_PROCESS, 0)
	var mayNice, files unix.Rlimit
	err2, err3 := unix.Getrlimit(unix.RLIMIT_NICE, &mayNice), unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	now := 20 - raw
	most, ok1 := kernelSetting("/proc/sys/fs/nr_open")
	first, ok2 := kernelSetting("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if !ok1 || !ok2 {
		t.Skip("there is no /proc/sys")
	}
	expect := func(what string, err error, says string) {
		t.Helper()
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", what, err, says)
		}
	}
	unlessAllowed := func(allowed bool, says string) string {
		if allowed {
			return ""
		}
		return says
	}
	withoutRights(t, func() {
		expect("as nice as the agent", canNice(now), "")
		expect("nicer", canNice(19), "")
		expect("more urgent", canNice(-20), unlessAllowed(mayNice.Cur >= 40 || now == -20, "-20 is more urgent than the agent"))
		expect("as many files", canLimit("nofile", Rlimit{0, files.Max}), "")
		if files.Max < most {
			expect("more files", canLimit("nofile", Rlimit{0, files.Max + 1}), "is above the agent's own hard limit, which is "+limitText(files.Max))
		}
		expect("more files than there can be", canLimit("nofile", Rlimit{0, most + 1}), "(fs.nr_open)")
		expect("a low port", canBind(1), unlessAllowed(first <= 1, "takes CAP_NET_BIND_SERVICE"))
		expect("a high port", canBind(65535), "")
	})
	if capable(unix.CAP_SYS_NICE) {
		expect("more urgent, with the right", canNice(-20), "")
	}
	if capable(unix.CAP_SYS_RESOURCE) {
		if files.Max < most {
			expect("more files, with the right", canLimit("nofile", Rlimit{0, files.Max + 1}), "")
		}
		expect("more of another thing", canLimit("core", Rlimit{0, most + 1}), "")
	}
	if capable(unix.CAP_NET_BIND_SERVICE) {
		expect("a low port, with the right", canBind(1), "")
	}
	for _, name := range resources {
		if _, known := resourceNumbers[name]; !known {
			t.Errorf("the system has no %s", name)
		}
	}
}

// All of that is looked at where the configuration names it.
func TestTreatmentIsChecked(t *testing.T) {
	c, err := loadText(t, base+"nice = -20\nrlimits = { nofile = \"unlimited\", core = 0 }\n[[target.socket]]\nlisten = \"tcp:127.0.0.1:1\"\n")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	withoutRights(t, func() {
		for _, f := range c.CheckMachine(t.Context()) {
			if f.Subject == "target.nice" || f.Subject == "target.rlimits" || f.Subject == socketKey {
				said = append(said, f.Subject)
				if f.OK == (f.Hint != "") {
					t.Errorf("%+v", f)
				}
			}
		}
	})
	if got := strings.Join(said, " "); got != "target.nice target.rlimits target.rlimits target.socket" {
		t.Error(got)
	}
}

// What keeps a process from being started is known before it is stopped, and nothing is
// missed that may still come.
func TestCheckStart(t *testing.T) {
	root := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
	for _, err := range []error{
		os.WriteFile(at("app"), nil, 0o755), os.WriteFile(at("text"), nil, 0o644), os.Symlink("to/come", at("link")), os.Mkdir(at("folder"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	most, ok := kernelSetting("/proc/sys/fs/nr_open")
	if !ok {
		t.Fatal("no fs.nr_open")
	}
	tooMany := map[string]Rlimit{"nofile": {Soft: 1, Hard: most + 1}}
	after := Hooks{AfterFiles: []string{"make"}}
	for name, c := range map[string]struct {
		target Target
		places []string
		says   string // "": it can be started
	}{
		"there":              {Target{Command: []string{"./app"}}, nil, ""},
		"found in PATH":      {Target{Command: []string{"sh"}}, nil, ""},
		"nowhere in PATH":    {Target{Command: []string{"no-such-app"}}, nil, "cannot run no-such-app of target.command: executable file not found"},
		"missing":            {Target{Command: []string{"./bin/ap"}}, []string{"bin", "bin/app"}, "cannot run ./bin/ap of target.command: stat"},
		"it comes":           {Target{Command: []string{"./bin/ap"}}, []string{"bin", "bin/ap"}, ""},
		"by another way":     {Target{Command: []string{"./current/ap"}}, []string{"releases/3/ap"}, ""},
		"a link to it":       {Target{Command: []string{"./link"}}, nil, ""},
		"a hook may make it": {Target{Command: []string{"./bin/ap"}, Hooks: after}, nil, ""},
		"not a program":      {Target{Command: []string{at("text")}}, nil, "/text, or change the key"},
		"a new mode":         {Target{Command: []string{at("text")}}, []string{"text"}, ""},
		"a folder":           {Target{Command: []string{"./folder"}}, nil, "is a folder"},
		"no dir":             {Target{Command: []string{"sh"}, Dir: at("no")}, nil, "target.dir " + at("no") + " is not there; mend it with: mkdir -p " + at("no") + ", or change the key"},
		"the dir comes":      {Target{Command: []string{"sh"}, Dir: at("no")}, []string{"no/file"}, ""},
		"no dir for output":  {Target{Command: []string{"sh"}, Output: at("no", "out")}, nil, "the folder of target.output"},
		"no user":            {Target{Command: []string{"sh"}, User: "no-such-user"}, nil, "target.user"},
		"too many files":     {Target{Command: []string{"./app"}, Rlimits: tooMany, Hooks: after}, []string{"app"}, "fs.nr_open"},
		"another manager's":  {Target{External: External{Set: true}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.target.Root = root
			err := c.target.CheckStart(c.places)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
		})
	}
}
