package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

// The steps of README.md's first patch, word for word, on the sample process.
func TestReadmeFirstPatch(t *testing.T) {
	if _, err := exec.LookPath("zip"); err != nil {
		t.Skip("zip is not installed")
	}
	text := read(t, "README.md")
	toml := section(t, text, "```toml\n")
	script := section(t, text, "   ```sh\n   mkdir")
	drop := regexp.MustCompile("Drop it: `([^`]+)`").FindStringSubmatch(text)[1]

	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/app", "#!/bin/sh\nexec service\n")
	write("res/logo.txt", "old\n")
	write("new-logo.txt", "new\n")
	// The sample has no health page; everything else is as it stands.
	write("agent.toml", regexp.MustCompile(`(?s)\[target.ready\].*`).ReplaceAllString(toml, ""))
	shell := func(command string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	shell(`ln -s "$(command -v patchagent)" patchagent`)
	shell("./patchagent check")
	agent := exec.Command("./patchagent")
	agent.Dir = dir
	var log bytes.Buffer
	agent.Stderr = &log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { _ = agent.Process.Signal(os.Interrupt); _ = agent.Wait() }
	if !eventually(t.Context(), func() bool { _, err := os.Stat(filepath.Join(dir, "service.log")); return err == nil }) {
		stop()
		t.Fatalf("the sample did not start:\n%s", log.String())
	}
	shell("mkdir" + script)
	if out := shell("./patchagent plan fix.zip"); !strings.Contains(out, "replace") || !strings.Contains(out, "res/logo.txt") {
		t.Errorf("plan: %s", out)
	}
	shell(drop)
	applied := eventually(t.Context(), func() bool { return strings.Contains(shell("./patchagent history"), "applied") })
	logo := shell("cat res/logo.txt; ls patch/applied")
	back := regexp.MustCompile("Not what you wanted\\? `([^`]+)`").FindStringSubmatch(text)[1]
	if out := shell(back + "; cat res/logo.txt"); !strings.Contains(out, "build 200 is installed again") || !strings.HasSuffix(out, "\nold\n") {
		t.Errorf("%s: %s", back, out)
	}
	stop()
	if !applied || !strings.Contains(log.String(), "patch applied") {
		t.Errorf("not applied:\n%s", log.String())
	}
	if logo != "new\n201_fix.zip\n201_fix.zip.sha256\n" {
		t.Errorf("%q", logo)
	}
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
	for _, dir := range []string{"agent", "agent/config", "agent/record", "agent/supervisor", "applier", "applier/journal", "manifest", "manifest/reason", "watcher", "examples/cases", "examples/target"} {
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
