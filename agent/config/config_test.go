package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const base = "region = \"r\"\n[target]\ncommand = [\"app\"]\n"

// loadText loads a file with that text in a folder of its own.
func loadText(t *testing.T, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

// assignment is TOML for a key under its section.
func assignment(key, value string) string {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return fmt.Sprintf("%s = %s\n", key, value)
	}
	return fmt.Sprintf("[%s]\n%s = %s\n", key[:i], key[i+1:], value)
}

// without is a sound configuration that leaves the key to be set.
func without(key, value string) string {
	text := ""
	if key != "region" {
		text = "region = \"r\"\n"
	}
	if !strings.Contains(key, ".") {
		return text + assignment(key, value) + "[target]\ncommand = [\"app\"]\n"
	}
	if section, name, _ := strings.Cut(key, "."); section == "target" && !strings.Contains(name, ".") {
		if name != "command" {
			return text + "[target]\ncommand = [\"app\"]\n" + name + " = " + value + "\n"
		}
		return text + assignment(key, value)
	}
	return text + "[target]\ncommand = [\"app\"]\n" + assignment(key, value)
}

func problems(t *testing.T, err error) []Problem {
	t.Helper()
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("%v is not an *Error", err)
	}
	return e.Problems
}

// Every key refuses a value of the wrong type, with its line and its name.
func TestWrongTypes(t *testing.T) {
	for _, f := range Default().fields() {
		wrong := "{ a = 1 }"
		if _, isTable := f.value.(*map[string]string); isTable {
			wrong = "3"
		}
		text := without(f.key, wrong)
		_, err := loadText(t, text)
		if err == nil {
			t.Errorf("%s accepts %s", f.key, wrong)
			continue
		}
		ok := false
		for _, p := range problems(t, err) {
			line := strings.Split(text, "\n")[max(0, p.Line-1)]
			ok = ok || strings.HasPrefix(p.Key, f.key) && p.Line > 0 && strings.Contains(line, f.key[strings.LastIndexByte(f.key, '.')+1:]+" =")
		}
		if !ok {
			t.Errorf("%s = %s: %v", f.key, wrong, err)
		}
	}
}

// Durations and sizes need their unit.
func TestBareNumbers(t *testing.T) {
	for _, f := range Default().fields() {
		for _, bare := range []string{"5", "5.5", `"5"`, `"-5s"`, `"5 parsecs"`} {
			var hint string
			switch f.value.(type) {
			case *Duration:
				hint = `"5s"`
			case *Size:
				hint = `"64MiB"`
			default:
				continue
			}
			_, err := loadText(t, without(f.key, bare))
			if err == nil || !strings.Contains(err.Error(), f.key) || !strings.Contains(err.Error(), hint) {
				t.Errorf("%s = %s: %v", f.key, bare, err)
			}
		}
	}
}

// A key that is one letter off is refused with the right one, whatever its case.
func TestNearestKey(t *testing.T) {
	for _, f := range Default().fields() {
		for _, wrong := range []string{f.key + "s", strings.ToUpper(f.key)} {
			i := strings.LastIndexByte(f.key, '.')
			wrong = f.key[:i+1] + wrong[i+1:]
			text := without(wrong, `"x"`)
			if !strings.Contains(f.key, ".") {
				text = base[:strings.IndexByte(base, '[')] + assignment(wrong, `"x"`) + base[strings.IndexByte(base, '['):]
			}
			_, err := loadText(t, text)
			if err == nil || !strings.Contains(err.Error(), wrong+": there is no such key; did you mean "+f.key+"?") {
				t.Errorf("%s: %v", wrong, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "region: must be set"},
		{"", "target.command: must be set"},
		{"region = \"r\"\nx", "agent.toml:2: "},
		{base + "[tarlet]\nroot = \"x\"\n", "tarlet: there is no such key; did you mean [target]?"},
		{base + "[target.redy]\ndelay = \"1s\"\n", "target.redy: there is no such key; did you mean [target.ready]?"},
		{base + "[gate]\nexec = [\"x\"]\n", "gate: there is no such key; did you mean [target.gate]?"},
		{base + "[ready]\n", "did you mean [target.ready]?"},
		{base + "[reload]\n", "did you mean [target.reload]?"},
		{base + "[health]\n", "did you mean [target.health]?"},
		{base + "[hooks]\n", "did you mean [target.hooks]?"},
		{base + "[[hooks]]\n", "did you mean [target.hooks]?"},
		{base + "[external]\n", "did you mean [target.external]?"},
		{base + "[[target.sockets]]\n", "did you mean [[target.socket]]?"},
		{base + "[socket]\n", "did you mean [[target.socket]]?"},
		// What is no TOML.
		{base + "umask = 0027\n", `agent.toml:4: Invalid integer "0027": cannot have leading zeroes; write octal digits in quotes: umask = "0027"`},
		{held + "mode = 0660 # rw\n", `agent.toml:5: Invalid integer "0660": cannot have leading zeroes; write octal digits in quotes: mode = "0660"`},
		{"build = 007\n", "agent.toml:1: Invalid integer \"007\": cannot have leading zeroes; write a number without zeros in front"},
		{base + "rlimits = { core = unlimited }\n", `agent.toml:4: expected value but found "unlimited" instead; write words in quotes`},
		{base + "output = /x\n", "agent.toml:4: expected value but found '/' instead; write words in quotes"},
		{base + "output =\n", "; write a value, such as \"\" for none"},
		{"x = False\n", "; write true or false in small letters"},
		{base + "stop_timeout = 5s\n", "; write durations and sizes in quotes, such as \"5s\""},
		{base + "[target.ready]\ntcp = 127.0.0.1:80\n", "; write what is no number in quotes"},
		{base + "[target.reload]\n[log]\n[target.reload]\n", "agent.toml:6: Key 'target.reload' has already been defined; a section may stand only once: write all of its keys in one place"},
		{"region = \"r\"\nregion = \"q\"\n", "agent.toml:2: Key 'region' has already been defined; a key may stand only once"},
		{held + "[target.socket]\n", "; write [[target.socket]] above each socket"},
		{base + "[patch]\nroot = \"x\"\n", "patch.root: there is no such key; did you mean target.root?"},
		{"patch = 3\n" + base, "patch: is a section; write [patch]"},
		{without("build", "-1"), "build: must not be negative"},
		{without("patch.mode", `"sometimes"`), `patch.mode: is "sometimes"; it must be one of auto, manual`},
		{without("patch.mode", `5`), "patch.mode: is a bare number; it must be one of these, in quotes: auto, manual"},
		{without("target.restart", `5`), "target.restart: is a bare number; it must be one of these, in quotes: on-failure, always, never"},
		{without("target.reload.confirm", `true`), "target.reload.confirm: is true or false; it must be one of these, in quotes: none, notify"},
		{without("log.file", `5`), "log.file: is a bare number; it must be a string in quotes"},
		{without("verify.require", `"hope"`), "verify.require: is \"hope\""},
		{without("log.level", `"loud"`), "log.level: is \"loud\""},
		{without("log.format", `"xml"`), "log.format: is \"xml\""},
		{without("log.max_size", `"1KiB"`), "log.max_size: is 1KiB; it must be at least 1MiB"},
		{without("target.restart", `"maybe"`), "target.restart: is \"maybe\""},
		{without("target.stop_signal", `"SIGNONE"`), `"SIGNONE" is not the name of a signal`},
		{without("target.command", `[]`), "target.command: must be set"},
		{without("target.command", `["a", 3]`), "has a bare number at place 2"},
		{without("verify.require", `"signature"`), "verify.require: is \"signature\", and verify.keys names no key"},
		{without("verify.keys", `["a", ""]`), "verify.keys: has an empty string in it"},
		{without("target.command", `[""]`), "target.command: has an empty string in it"},
		{without("target.stop_signal", `""`), "target.stop_signal: must not be empty"},
		{without("target.stop_signal", `"STOP"`), "SIGSTOP ends no process"},
		{without("target.reload.signal", `"KILL"`), "SIGKILL tells a process nothing"},
		{without("target.user", `"a:b"`), `"a:b" is not the name of a user`},
		{"\"patch.dir\" = \"x\"\n" + base, "agent.toml:1: \"patch.dir\": there is no such key; did you mean patch.dir?"},
		{base + "\"reload.signal\" = \"HUP\"\n", "agent.toml:4: target.\"reload.signal\": there is no such key; did you mean target.reload.signal?"},
		{base + "[[patch]]\ndir = \"x\"\n", "agent.toml:4: patch: is a section"},
		{without("target.env", `{ "A=B" = "x" }`), `"A=B" is not the name of an environment variable`},
		{without("target.env", `{ A = 1 }`), "has a bare number for A"},
		{without("target.protect", `["/etc/**"]`), `"/etc/**" is not a pattern relative to target.root`},
		{without("target.protect", `["[x"]`), "is not a pattern"},
		{without("target.protect", `["../x"]`), "is not a pattern"},
		{without("target.protect", `["data/"]`), "is not a pattern"},
		{without("target.reload.http", `"http://h:99999/"`), "has a port that is none; it is a number from 1 to 65535"},
		{without("target.ready.http", `"https://h:0/"`), "has a port that is none"},
		{without("target.health.http", `"http://h:99999/"`), "has a port that is none"},
		{without("target.reload.http", `"ftp://x"`), `"ftp://x" is not an address`},
		{without("target.reload.http", `"unix:run.sock:/x"`), "is not an address"},
		{without("target.ready.tcp", `"8080"`), `"8080" is not an address`},
		{without("target.ready.tcp", `"h:99999"`), `"h:99999" is not an address`},
		{without("target.ready.tcp", `":80"`), `":80" is not an address`},
		{without("target.ready.http", `"http://:80/"`), `"http://:80/" is not an address`},
		{without("target.ready.exec", `[""]`), "begins with an empty string"},
		{without("patch.settle", `"0"`), `"0" has no unit; write "0s"`},
		{without("patch.poll", `"1ms"`), "patch.poll: is 1ms; it must be at least 10ms"},
		{without("patch.patience", `"0s"`), "patch.patience: must be more than nothing"},
		{without("patch.max_waiting", "0"), "patch.max_waiting: is 0; it must be from 1 to 1000"},
		{without("patch.max_waiting", "1001"), "patch.max_waiting: is 1001; it must be from 1 to 1000"},
		{without("patch.max_waiting_size", `"0B"`), "patch.max_waiting_size: must be more than nothing"},
		{without("patch.keep_rejected", "0"), "patch.keep_rejected: must be more than nothing"},
		{without("patch.keep_rejected_size", `"0B"`), "patch.keep_rejected_size: must be more than nothing"},
		{without("target.ready.delay", `"2m"`), "target.ready.delay: is 2m, longer than target.ready.timeout"},
		{without("target.stop_timeout", `"9999h"`), "is taken for a mistake"},
		{base + "[target.reload]\nexec = [\"x\"]\nhttp = \"http://h/\"\n", "only one of signal, exec, http can be set"},
		{base + "[target.ready]\ntcp = \"h:1\"\nhttp = \"http://h/\"\n", "only one of delay, notify, http, tcp, exec can be set"},
		{without("patch.dir", `""`), "patch.dir: must not be empty"},
		{without("patch.dir", `"."`), "patch.dir: holds target.root"},
		{without("state.dir", `"patch/state"`), "agent.toml:5: state.dir: and patch.dir must be folders of their own, neither within the other"},
		{without("target.root", `"patch/app"`), "agent.toml:4: patch.dir: holds target.root"},
		{base + "[[target.socket]]\nlisten = \"tcp:127.0.0.1:80\"\nnam = \"x\"\n", "agent.toml:6: target.socket: there is no key nam in it; did you mean name?"},
		{base + "[[target.socket]]\nlisten = \"x\"\n[[target.socket]]\nlisten = \"tcp:h:1\"\n", `agent.toml:5: target.socket: listen is "x"`},
		{base + "[[target.socket]]\nlisten = \"udp:1\"\n", `listen is "udp:1"`},
		{base + "[target.socket]\nlisten = \"x\"\n", "write [[target.socket]]"},
		{"x = \"" + strings.Repeat("a", maxFile) + "\"\n" + base, "larger than"},
	} {
		_, err := loadText(t, c.text)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.says)
		}
	}
}

// All that is wrong is told, in the order of the lines, and nothing twice.
func TestAllProblemsAreTold(t *testing.T) {
	_, err := loadText(t, "region = 3\nlog = { level = \"x\", format = \"x\", max_size = \"1B\" }\n[patch]\npoll = 5\ndir = \"x\"\n[state]\ndir = \"x/y\"\n[foo]\na = 1\nb = 2\n[[bar]]\nc = 1\n[[bar]]\n[target]\ncommand = 3\n")
	var got []string
	for _, p := range problems(t, err) {
		got = append(got, fmt.Sprintf("%d %s", p.Line, p.Key))
	}
	// The library knows of the last [[bar]] only.
	want := []string{"1 region", "2 log.format", "2 log.level", "2 log.max_size", "4 patch.poll", "7 state.dir", "8 foo", "13 bar", "15 target.command"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v%s", err, diff)
	}
	for line := range strings.Lines(err.Error()) {
		if !regexp.MustCompile(`^/.*/agent.toml:\d+: \S+: `).MatchString(line) {
			t.Errorf("%q does not begin with file, line and key", line)
		}
	}
}

// A file that is something else altogether is refused at once, and briefly.
func TestAnotherFile(t *testing.T) {
	var text strings.Builder
	for i := range 5_000 {
		fmt.Fprintf(&text, "key%d = 1\n", i)
	}
	_, err := loadText(t, text.String())
	if got := problems(t, err); len(got) != maxProblems+1 || !strings.Contains(err.Error(), "there are 4952 more problems; is this the right file?") {
		t.Errorf("%d problems, the last %+v", len(got), got[len(got)-1])
	}
}

// A way that is set has its own bounds, not those of the default that it replaces.
func TestDefaultGivesPlace(t *testing.T) {
	if _, err := loadText(t, base+"[target.ready]\ntcp = \"h:1\"\ntimeout = \"50ms\"\n"); err != nil {
		t.Error(err)
	}
}

func TestLoaded(t *testing.T) {
	c, err := loadText(t, `region = "r"
build = 7
[patch]
dir = "in"
settle = "1m30s"
[verify]
max_size = "2GB"
[log]
file = "/var/log/a.log"
[target]
root = "app"
command = ["bin/app", "-v"]
env = { A = "1" }
stop_signal = "quit"
protect = ["data/**"]
[target.reload]
exec = ["true"]
[target.ready]
http = "unix:/run/app.sock:/ok"
`)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(c.Path)
	want := Default()
	want.Path, want.sum, want.Region, want.Build = c.Path, c.sum, "r", 7
	want.Patch.Dir, want.Patch.Settle = filepath.Join(dir, "in"), Duration(90*time.Second)
	want.Verify.MaxSize = 2e9
	want.State.Dir = filepath.Join(dir, ".patchagent")
	want.Log.File = "/var/log/a.log"
	want.Target.Root, want.Target.Command, want.Target.Env = filepath.Join(dir, "app"), []string{"bin/app", "-v"}, map[string]string{"A": "1"}
	want.Target.StopSignal, want.Target.Protect = Signal{"SIGQUIT", syscall.SIGQUIT}, []string{"data/**"}
	want.Target.Reload.Exec, want.Target.Reload.Signal = []string{"true"}, Signal{}
	want.Target.Ready.HTTP, want.Target.Ready.Delay = "unix:/run/app.sock:/ok", 0
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	if c.Target.WorkDir() != want.Target.Root {
		t.Errorf("working directory %s", c.Target.WorkDir())
	}
}

func TestUnitsReadBack(t *testing.T) {
	for _, s := range []Size{0, 1, 1000, 1024, 5 << 30, 1500, 3e9} {
		var back Size
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Errorf("%d is written %q and read %d, %v", int64(s), s, int64(back), err)
		}
	}
	for _, d := range []Duration{0, Duration(time.Millisecond), Duration(time.Minute), Duration(time.Hour), Duration(90 * time.Second)} {
		var back Duration
		if err := back.UnmarshalText([]byte(d.String())); err != nil || back != d {
			t.Errorf("%d is written %q and read %d, %v", int64(d), d, int64(back), err)
		}
	}
}

// agent.toml at the top has every key, at its default, and the document too.
func TestEveryKeyIsDocumented(t *testing.T) {
	sample, err := os.ReadFile("../../agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	// The sample with every key that is commented out put in.
	whole := regexp.MustCompile(`(?m)^# (\[|[a-z_]+ += )`).ReplaceAll(sample, []byte("$1"))
	section := ""
	written := map[string]string{}
	for line := range strings.Lines(string(whole)) {
		if m := regexp.MustCompile(`^\[+([a-z.]+)\]`).FindStringSubmatch(line); m != nil {
			section = m[1] + "."
		} else if m := regexp.MustCompile(`^([a-z_]+) += +(\S+|"[^"]*"|\[[^]]*\])\s*(#|$)`).FindStringSubmatch(line); m != nil {
			written[section+m[1]] = m[2]
		}
	}
	if _, err := Load("../../agent.toml"); err != nil {
		t.Fatal(err)
	}
	when := map[string]string{live: "at once", start: "next start of the process", restart: "restart of the agent"}
	documented := func(key string, f field) {
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(key) + "` \\|.*\\| " + when[f.when] + " \\|$")
		if !row.Match(document) {
			t.Errorf("docs/configuration.md has no row for %s that ends in %q", key, when[f.when])
		}
		want := asTOML(reflect.ValueOf(f.value).Elem())
		switch key {
		case "region", "build", "target.command", "target.nice", "target.socket.listen": // without a default, or with the sample's own
			want = written[key]
		}
		if got := written[key]; got == "" || got != want {
			t.Errorf("agent.toml has %s = %s, the default is %s", key, got, want)
		}
	}
	for _, f := range Default().fields() {
		documented(f.key, f)
	}
	c, err := loadText(t, base+"[[target.socket]]\nlisten = \"unix:/run/app.sock\"\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Target.Sockets[0].fields() {
		documented(socketKey+"."+f.key, f)
	}
}

// asTOML is a default as the sample writes it.
func asTOML(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return fmt.Sprintf("%q", x)
	case Duration, Size, Signal, Octal:
		return fmt.Sprintf("%q", x)
	case []string:
		return "[]"
	case map[string]string, Rlimits:
		return "{}"
	default:
		return fmt.Sprint(x)
	}
}

func FuzzParse(f *testing.F) {
	sample, err := os.ReadFile("../../agent.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	f.Add([]byte(base))
	f.Add([]byte("[[target.socket]]\nlisten = 3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("/etc/agent.toml", data)
		if err != nil {
			return
		}
		if c.Region == "" || (len(c.Target.Command) == 0) != c.Target.External.Set || !filepath.IsAbs(c.Patch.Dir) || !filepath.IsAbs(c.Target.Root) {
			t.Fatalf("%+v", c)
		}
	})
}
