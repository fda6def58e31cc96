package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"patchagent/agent/config"
	"patchagent/manifest/reason"
)

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The table in README.md is the table of the program, row by row.
func TestReadmeHasEveryReason(t *testing.T) {
	text := read(t, "README.md")
	for _, code := range reason.All() {
		outcome := strings.ReplaceAll(string(code.Outcome()), "-", " ")
		if row := fmt.Sprintf("| %s | `%s` | %s |\n", outcome, code, code.Advice()); !strings.Contains(text, row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
	if rows := strings.Count(text, "\n| rejected | ") + strings.Count(text, "\n| rolled back | ") + strings.Count(text, "\n| failed | "); rows != len(reason.All()) {
		t.Errorf("README.md has %d rows, there are %d codes", rows, len(reason.All()))
	}
}

// No text sends anybody to a command that there is not.
func TestNamedCommandsExist(t *testing.T) {
	known := map[string]bool{}
	for _, cmd := range rootCommand(Program{}).Commands() {
		known[cmd.Name()] = true
	}
	texts := map[string]string{}
	for _, code := range reason.All() {
		texts[string(code)] = code.Advice()
	}
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatal(docs, err)
	}
	for _, file := range append(docs, "../README.md", "../CHANGELOG.md", "../agent.toml") {
		texts[file] = read(t, strings.TrimPrefix(file, "../"))
	}
	for where, text := range texts {
		for _, m := range regexp.MustCompile("(?:`|\\./)patchagent ([a-z]+)").FindAllStringSubmatch(text, -1) {
			if !known[m[1]] {
				t.Errorf("%s names %q", where, m[0])
			}
		}
	}
}

// The steps of README.md's first patch, word for word, on the sample process.
func TestReadmeFirstPatch(t *testing.T) {
	if _, err := exec.LookPath("zip"); err != nil {
		t.Skip("zip is not installed")
	}
	text := read(t, "README.md")
	toml := section(t, text, "```toml\n")
	script := section(t, text, "   ```sh\n   mkdir")
	drop := regexp.MustCompile("Drop it: `([^`]+)`").FindStringSubmatch(text)[1]

	u := newUser(t)
	u.write("res/logo.txt", "old\n")
	u.write("new-logo.txt", "new\n")
	// The sample has no health page; everything else is as it stands.
	u.write("agent.toml", regexp.MustCompile(`(?s)\[target.ready\].*`).ReplaceAllString(toml, ""))
	u.shell("./patchagent check")
	u.start()
	u.shell("mkdir" + script)
	if out := u.shell("./patchagent plan fix.zip"); !strings.Contains(out, "replace") || !strings.Contains(out, "res/logo.txt") {
		t.Errorf("plan: %s", out)
	}
	u.shell(drop)
	inHistory := func(what string) bool {
		return eventually(t.Context(), func() bool { // the file is put away a moment after it is in the history
			if !strings.Contains(u.history(), what) {
				return false
			}
			left, err := os.ReadDir(filepath.Join(u.dir, ".patchagent", claimsName))
			return err == nil && len(left) == 0
		})
	}
	applied := inHistory("applied")
	logo := u.shell("cat res/logo.txt; ls patch/applied")
	back := regexp.MustCompile("Not what you wanted\\? `([^`]+)`").FindStringSubmatch(text)[1]
	if out := u.shell(back + "; cat res/logo.txt"); !strings.Contains(out, "build 200 is installed again") || !strings.HasSuffix(out, "\nold\n") {
		t.Errorf("%s: %s", back, out)
	}
	forward := regexp.MustCompile("Forward again\\? `([^`]+)`").FindStringSubmatch(text)[1]
	u.shell(forward)
	again := inHistory("201_fix.zip")
	if out := u.shell("cat res/logo.txt; ls patch/applied"); !again || !strings.HasPrefix(out, "new\n") || !strings.Contains(out, "201_201_fix.zip\n") {
		t.Errorf("%s: %s", forward, out)
	}
	log := u.stop()
	if !applied || !strings.Contains(log, "patch applied") {
		t.Errorf("not applied:\n%s", log)
	}
	if logo != "new\n201_fix.zip\n201_fix.zip.sha256\n" {
		t.Errorf("%q", logo)
	}
}

// The commands of docs/trust.md, word for word, as one operator with one stick.
func TestTrustWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("a passphrase takes a second and a gigabyte each time")
	}
	text := read(t, "docs/trust.md")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) != 4 {
		t.Fatalf("docs/trust.md has %d blocks", len(blocks))
	}
	first, install, sign, grep := blocks[0], blocks[1], blocks[2], blocks[3]
	next := regexp.MustCompile("Make it, in time: `([^`]+)`").FindStringSubmatch(text)[1]
	both := regexp.MustCompile("add it: `([^`]+)`").FindStringSubmatch(text)[1]

	u := newUser(t)
	const base = "region = \"us-east-1\"\nbuild = 200\n[patch]\npatience = \"300ms\"\n[target]\ncommand = [\"bin/app\"]\n"
	u.write("agent.toml", base)
	id := regexp.MustCompile(`(?m)^[0-9A-F]+$`).FindString(u.shell(first)) // it is alone on standard output
	u.shell("mkdir stick; cp vendor-2026.pub stick")
	u.shell(install)
	u.write("agent.toml", base+section(t, text, "```toml\n"))
	if out := u.shell("./patchagent check"); id == "" || !strings.Contains(out, id) {
		t.Errorf("check does not print %s:\n%s", id, out)
	}
	u.start()
	pack := func(build, content string) {
		u.shell("rm -rf p fix.zip*; mkdir -p p/new; echo " + content + " > p/new/f; " +
			`printf '{"justres": true, "region": "us-east-1", "build": "` + build + `", "newfiles": [{"name": "f", "path": ""}]}' > p/manifest.json; cd p; zip -qr ../fix.zip .`)
	}
	outcome := func(want string) {
		t.Helper()
		receipts := strings.Count(u.history(), "\n")
		u.shell(`cp fix.zip.minisig fix.zip patch/`)
		if !eventually(t.Context(), func() bool { return strings.Count(u.history(), "\n") > receipts }) || !strings.Contains(u.history(), want) {
			t.Errorf("not %s:\n%s\n%s", want, u.history(), u.log.String())
		}
	}
	pack("201", "one")
	u.shell(sign) // drops it, too
	if !eventually(t.Context(), func() bool { return strings.Contains(u.history(), "applied") }) {
		t.Errorf("not applied:\n%s", u.log.String())
	}
	u.shell(next)
	u.shell("cp vendor-2027.pub keys")
	u.write("agent.toml", base+"[verify]\n"+both+"\n")
	pack("202", "two")
	u.shell("./patchagent sign fix.zip -s vendor-2027.sec")
	u.until("agent.toml has changed")
	outcome("202")
	if out := u.shell(grep); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"build":201`) {
		t.Errorf("%s: %s", grep, out)
	}
	u.shell("rm keys/vendor-2026.pub")
	pack("203", "three")
	u.shell("./patchagent sign fix.zip -s vendor-2026.sec")
	outcome("signature-invalid")
	u.stop()
}

// A user is a folder of somebody's who follows the documentation.
type user struct {
	t     *testing.T
	dir   string
	agent *exec.Cmd
	log   buffer
}

// newUser has the program beside a service, which is the sample of the stories.
func newUser(t *testing.T) *user {
	u := &user{t: t, dir: t.TempDir()}
	u.write("bin/app", "#!/bin/sh\nexec service\n")
	u.shell(`ln -s "$(command -v patchagent)" patchagent`)
	return u
}

func (u *user) write(name, content string) {
	u.t.Helper()
	path := filepath.Join(u.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
		u.t.Fatal(err)
	}
}

// shell runs commands to their end; who asks for a passphrase gets one.
func (u *user) shell(command string) string {
	u.t.Helper()
	cmd := exec.CommandContext(u.t.Context(), "sh", "-ec", command)
	cmd.Dir = u.dir
	cmd.Stdin = strings.NewReader("correct horse\ncorrect horse\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		u.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func (u *user) history() string { return u.shell("./patchagent history") }

// start starts the agent and waits for the service.
func (u *user) start() {
	u.t.Helper()
	u.agent = exec.Command("./patchagent")
	u.agent.Dir, u.agent.Stderr = u.dir, &u.log
	if err := u.agent.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { u.stop() })
	if !eventually(u.t.Context(), func() bool { _, err := os.Stat(filepath.Join(u.dir, "service.log")); return err == nil }) {
		u.t.Fatalf("the service did not start:\n%s", u.log.String())
	}
}

func (u *user) until(said string) {
	u.t.Helper()
	if !eventually(u.t.Context(), func() bool { return strings.Contains(u.log.String(), said) }) {
		u.t.Fatalf("the agent does not say %q:\n%s", said, u.log.String())
	}
}

// stop ends the agent, and returns what it said.
func (u *user) stop() string {
	_ = u.agent.Process.Signal(os.Interrupt)
	_ = u.agent.Wait()
	return u.log.String()
}

// buffer can be read while it is written to.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// section returns the code block that begins so, without its indentation.
func section(t *testing.T, text, begin string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, begin)
	if !ok {
		t.Fatalf("README.md has no block %q", begin)
	}
	block, _, _ := strings.Cut(rest, "```")
	return strings.ReplaceAll(block, "\n   ", "\n")
}

// agent.toml has every key, at its default, and is sound.
func TestSampleConfiguration(t *testing.T) {
	if _, err := config.Load("../agent.toml"); err != nil {
		t.Fatal(err)
	}
	if text := read(t, "README.md"); !strings.Contains(read(t, "agent.toml"), "go build -o bin/app ./examples/target") || !strings.Contains(text, "go build") {
		t.Error("how the sample is built is not said")
	}
}

// Every package has just one comment that explains it.
func TestPackageComments(t *testing.T) {
	for _, dir := range []string{"agent", "agent/config", "agent/record", "agent/sdnotify", "agent/supervisor", "applier", "applier/journal", "manifest", "manifest/reason", "manifest/signature", "manifest/hostile", "watcher", "examples/cases", "examples/downtime", "examples/goserver", "examples/load", "examples/load/openloop", "examples/site", "examples/target", "examples/unbound/ask"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		comments := 0
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if regexp.MustCompile(`(?m)^//.*\npackage `).Match(data) && !regexp.MustCompile(`(?m)^//go:build.*\n\npackage `).Match(data) {
				comments++
			}
		}
		if comments != 1 {
			t.Errorf("%s has %d package comments", dir, comments)
		}
	}
}
