package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Command is a program that the agent runs for a moment: to tell or to ask the
// process something.
type Command struct {
	Args    []string
	Dir     string
	Env     []string
	User    string        // run as; "" is the agent's own
	Timeout time.Duration // 0: as long as the context

	// Stdout, if set, gets the standard output, without what is mixed into it otherwise.
	Stdout io.Writer
}

// maxOutput is how much of a command's output is kept: its end.
const maxOutput = 64 << 10

// leaveTime is how long a command that was told to end may keep its output open.
const leaveTime = time.Second

// RunCommand runs c to its end and returns the last of its output. The error says
// how it failed and what it printed last. When the time is over, all of its
// process group is killed. What a command that ends in time leaves in the background
// stays, and is no part of the process: it is not killed with that.
func RunCommand(ctx context.Context, c Command) ([]byte, error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("it took longer than %s", c.Timeout))
		defer cancel()
	}
	name := c.Args[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name = filepath.Join(c.Dir, name)
	}
	cmd := exec.CommandContext(ctx, name, c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if c.Stdout != nil {
		cmd.Stdout = io.MultiWriter(&out, c.Stdout)
	}
	cmd.WaitDelay = leaveTime
	ownGroup(cmd)
	if err := runAs(cmd, c.User); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Args[0], err)
	}
	err := ownChildren.run(cmd)
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it did its work; something that it left in the background holds its output
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return out.bytes(), fmt.Errorf("%s: %w%s", c.Args[0], err, out.quoted())
	}
	return out.bytes(), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p[max(0, len(p)-maxOutput):]...)
	t.data = t.data[max(0, len(t.data)-maxOutput):]
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.data)
}

// quoted is the end of the output as a part of a sentence.
func (t *tail) quoted() string {
	const enough = 2 << 10
	text := strings.TrimSpace(string(t.bytes()))
	if text == "" {
		return ""
	}
	return fmt.Sprintf("; it printed: %q", text[max(0, len(text)-enough):])
}

// passed are the variables of the agent that its children get. Everything else,
// such as what the agent's own service manager told it, is not for them.
var passed = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SYSTEMROOT"}

// usualPath is PATH where the agent has none.
const usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// SafePath is a PATH without the entries that are empty or relative: they mean the
// working directory, and there lie the files that patches change.
func SafePath(path string) string {
	entries := slices.DeleteFunc(filepath.SplitList(path), func(dir string) bool { return !filepath.IsAbs(dir) })
	if len(entries) == 0 {
		return usualPath
	}
	return strings.Join(entries, string(filepath.ListSeparator))
}

// command is one that the configuration names, in the surroundings of the process:
// its folder, its environment with what is added, and its user.
func (o Options) command(args, env []string, timeout time.Duration) Command {
	return Command{Args: args, Dir: o.Dir, Env: append(environment(o), env...), User: o.User, Timeout: timeout}
}

// environment is the process's: the minimal one, the user's, and what is configured.
func environment(opts Options) []string {
	env := map[string]string{"PATH": usualPath}
	for _, pair := range os.Environ() {
		key, value, _ := strings.Cut(pair, "=")
		if slices.Contains(passed, key) || strings.HasPrefix(key, "LC_") {
			env[key] = value
		}
	}
	env["PATH"] = SafePath(env["PATH"])
	maps.Copy(env, userEnvironment(opts.User))
	maps.Copy(env, opts.Env)
	list := make([]string, 0, len(env))
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}
