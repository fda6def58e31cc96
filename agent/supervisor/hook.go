package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Hooks are the commands around a patch, by the names of their events. They run in the
// surroundings of the process.
type Hooks struct {
	Commands map[string][]string
	Timeout  time.Duration // of each
}

// Hook runs the command for the event, if there is one. env is added to its
// environment. That it begins, the last lines of its output and that it is done are
// logged; the error says how it failed and what it printed. When its time is over, or
// ctx is done, all of its process group is killed.
func (s *Supervisor) Hook(ctx context.Context, event string, env []string) error {
	var opts Options
	if err := s.ask(ctx, func() error { opts = s.opts; return nil }); err != nil {
		return err
	}
	return opts.hook(ctx, s.log, event, env)
}

func (o Options) hook(ctx context.Context, log hclog.Logger, event string, env []string) error {
	args := o.Hooks.Commands[event]
	if len(args) == 0 {
		return nil
	}
	log.Info("hook begins", forPatch(env, "hook", event, "timeout", o.Hooks.Timeout.String())...)
	began := time.Now()
	out, err := RunCommand(ctx, o.command(args, env, o.Hooks.Timeout))
	for _, line := range plainLines(out) {
		log.Info("a hook printed", forPatch(env, "hook", event, "line", line)...)
	}
	if err != nil {
		return fmt.Errorf("the hook %s failed: %w", event, err)
	}
	log.Info("hook done", forPatch(env, "hook", event, "took", time.Since(began).Round(time.Millisecond).String())...)
	return nil
}

// forPatch adds to what is logged the patch that an environment tells a command of; a
// rollback by hand has none.
func forPatch(env []string, pairs ...any) []any {
	for _, pair := range env {
		if name, is := strings.CutPrefix(pair, "PATCHAGENT_PATCH="); is && name != "" {
			return append(pairs, "patch", name)
		}
	}
	return pairs
}

// plainLines returns the last lines of what a command has printed, as many as Tail
// tells of a process, made plain.
func plainLines(out []byte) []string {
	out = bytes.TrimSpace(out)
	if len(out) == 0 {
		return nil
	}
	lines := bytes.Split(out, []byte("\n"))
	var plain []string
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		plain = append(plain, plainLine(string(bytes.TrimSuffix(line, []byte("\r")))))
	}
	return plain
}
