// Package examples has no code: its tests run the examples as their READMEs say.
package examples

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"patchagent/agent/config"
)

// limit is generous: a script itself gives up after a minute without progress.
const limit = 5 * time.Minute

// notInstalled is the exit status of a script whose program is missing.
const notInstalled = 3

// programs builds what the scripts would build, each for itself, once.
func programs(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for name, pkg := range map[string]string{"patchagent": "agent", "load": "examples/load", "goserver": "examples/goserver", "ask": "examples/unbound/ask"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, name), "patchagent/"+pkg)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s: %v\n%s", pkg, err, out)
		}
	}
	return bin
}

// Each example runs end to end, as its README says.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("real programs take their time")
	}
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("the scripts need bash")
	}
	bin := programs(t)
	scripts, err := filepath.Glob("*/run.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		name := filepath.Dir(script)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, script, bin)
		})
	}
	t.Run("python without gunicorn", func(t *testing.T) {
		t.Parallel()
		run(t, "python/run.sh", bin, "PYTHON_SERVER=serve.py")
	})
}

func run(t *testing.T, script, bin string, env ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, script)
	cmd.Env = append(append(os.Environ(), "EXAMPLES_BIN="+bin), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends what it has started
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == notInstalled {
		t.Skip(strings.TrimSpace(string(out)))
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	t.Logf("%s", out)
}

// What docs/downtime.md tells to run judges itself; here with fewer patches.
func TestDowntime(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures, and that takes its time")
	}
	command := regexp.MustCompile(`(?m)^go run (\./examples/downtime)(.*)$`).FindStringSubmatch(read(t, "../docs/downtime.md"))
	if command == nil {
		t.Fatal("docs/downtime.md has no command")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	program := filepath.Join(t.TempDir(), "downtime")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "patchagent/examples/downtime").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := append(strings.Fields(command[2]), "-patches", "1", "-rate", "200", "-only", "goserver") // the last one counts
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = ".."
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// Whatever command of these examples is named anywhere is one that there is, with flags
// that it knows.
func TestCommands(t *testing.T) {
	var texts []string
	for _, glob := range []string{"../*.md", "../docs/*.md", "*.md", "*/*.md", "*/main.go", "*/*/main.go"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatal(glob, files, err)
		}
		texts = append(texts, files...)
	}
	bin, built, seen := t.TempDir(), map[string]string{}, 0
	for _, file := range texts {
		for _, m := range regexp.MustCompile("go (?:run|build)(?: -o [^ `]+)? \\./(examples/[a-z/]+)([^`\n]*)").FindAllStringSubmatch(read(t, file), -1) {
			if seen++; built[m[1]] == "" {
				built[m[1]] = filepath.Join(bin, filepath.Base(m[1]))
				out, err := exec.CommandContext(t.Context(), "go", "build", "-o", built[m[1]], "patchagent/"+m[1]).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %q: %v\n%s", file, m[0], err, out)
				}
			}
			flags := regexp.MustCompile(`(?:^|[ [])-[a-z]+`).FindAllString(m[2], -1)
			if len(flags) == 0 {
				continue
			}
			help, _ := exec.CommandContext(t.Context(), built[m[1]], "-help").CombinedOutput() // of any exit status
			for _, flag := range flags {
				if flag = strings.TrimLeft(flag, " ["); !regexp.MustCompile(`(?m)^ +` + flag + `\b`).Match(help) {
					t.Errorf("%s: %q: there is no %s", file, m[0], flag)
				}
			}
		}
	}
	if seen < 5 { // of them all
		t.Errorf("only %d commands were found", seen)
	}
}

// Each agent.toml here is sound.
func TestConfigurations(t *testing.T) {
	files, err := filepath.Glob("*/agent.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if _, err := config.Load(file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Each example says how it is run, and names no file that there is not.
func TestReadmes(t *testing.T) {
	scripts, err := filepath.Glob("*/run.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	all := read(t, "README.md")
	for _, script := range scripts {
		dir := filepath.Dir(script)
		text := read(t, filepath.Join(dir, "README.md"))
		if !strings.Contains(text, "`./run.sh`") {
			t.Errorf("%s/README.md does not name run.sh", dir)
		}
		if !strings.Contains(all, "("+dir+")") {
			t.Errorf("README.md does not name %s", dir)
		}
		for _, m := range regexp.MustCompile("`(?:\\./)?((?:site|stand-in)/[a-z.]+|[a-z]+\\.(?:toml|go|service|sh))`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
				t.Errorf("%s/README.md: %v", dir, err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
