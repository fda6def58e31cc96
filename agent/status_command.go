package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"patchagent/agent/supervisor"
	"patchagent/manifest/reason"
)

func statusCommand(file *string, io Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "How the agent, the process and the patches are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			s, err := askAgentStatus(cmd.Context(), cfg.State.Dir)
			switch {
			case errors.Is(err, fs.ErrPermission):
				return &exitError{exitFailed, fmt.Errorf("cannot ask the agent: %w; run this command as its user", cmp.Or(errors.Unwrap(err), err))}
			case errors.Is(err, errNoAgent):
				return &exitError{exitFailed, withoutAgent(cmd.Context(), cfg)}
			case err != nil:
				return &exitError{exitFailed, err}
			}
			if asJSON {
				return json.NewEncoder(io.Out).Encode(s)
			}
			return s.print(io.Out, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusTime is more than an agent takes to say how it is, which waits for nothing.
const statusTime = 10 * time.Second

var errNoAnswer = errors.New("the agent that runs gives no answer")

// askAgentStatus asks the running agent. The error is of callAgent, or wraps errNoAnswer.
func askAgentStatus(ctx context.Context, stateDir string) (s status, err error) {
	asking, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	err = callAgent(asking, stateDir, http.MethodGet, "/status", nil, &s)
	if err != nil && asking.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w within %s: it hangs, or somebody has stopped it (SIGSTOP)", errNoAnswer, statusTime)
	}
	return s, err
}

// print is the status for people: a word for what it is about, then a sentence.
func (s status) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(about, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", about, reason.Line(fmt.Sprintf(format, args...)))
	}
	ago := func(t time.Time) string {
		return fmt.Sprintf("%s (%s)", stamp(t), now.Sub(t).Round(time.Second))
	}
	line("agent", "pid %d, since %s", s.Agent.PID, ago(s.Agent.Since))
	if !s.Agent.Watching {
		line("", "it goes on with what an earlier agent has left")
	}
	line("build", "%d, region %s%s", s.Build, s.Region, strings.TrimSuffix(", product "+s.Product, ", product "))
	line("kept", "%s", keptText(s.Kept))
	p := s.Process
	line("process", "%s", processText(p, ago))
	if p.Text != "" {
		line("", "it says: %s", p.Text)
	}
	if p.LastExit != "" {
		line("", "its last end: %s", p.LastExit)
	}
	if p.LastError != "" {
		line("", "its last start failed: %s", p.LastError)
	}
	if s.Failed {
		line("failed", "%s", failedText(s.Process))
	}
	if s.Held {
		line("held", "%s", holdDetail)
	}
	working := func(about string, w *work) {
		if w == nil {
			return
		}
		text := fmt.Sprintf("%s, since %s", w, ago(w.Since))
		if w.Step != nil {
			text += ", " + w.Step.text(now)
		}
		line(about, "%s", text)
	}
	working("applying", s.Applying)
	working("probation", s.Probation)
	for _, d := range s.Waiting {
		line("waiting", "%s", d)
	}
	if s.More > 0 {
		line("waiting", "and %d more", s.More)
	}
	if r := s.Last; r != nil {
		to := "no build"
		if r.Build != nil {
			to = fmt.Sprintf("build %d", *r.Build)
		}
		line("last", "%s: %q to %s: %s %s", stamp(r.Time), r.Patch, to, r.Outcome, r.Reason)
		if detail, _, more := strings.Cut(r.Detail, lastPrinted); more {
			line("", "%s; what was printed is in `patchagent history %s`", detail, r.ID)
		} else if detail != "" {
			line("", "%s", detail)
		}
	}
	return w.Flush()
}

// processText says what the process is doing. Of a service of another manager it is only
// known since when it was seen so.
func processText(p supervisor.Status, ago func(time.Time) string) string {
	since := "since " + ago(p.Since)
	switch {
	case p.External && p.Since.IsZero():
		return "a service of another manager, whose status command has given no answer yet"
	case p.External && p.Restarts > 0:
		return fmt.Sprintf("%s, a service of another manager, seen so %s, attempts to start it: %d", p.State, since, p.Restarts)
	case p.External:
		return fmt.Sprintf("%s, a service of another manager, seen so %s", p.State, since)
	case p.Since.IsZero():
		return fmt.Sprintf("%s, no pid", p.State)
	case p.PID == 0:
		return fmt.Sprintf("%s, no pid, %s, restarts: %d", p.State, since, p.Restarts)
	default:
		return fmt.Sprintf("%s, pid %d, %s, restarts: %d", p.State, p.PID, since, p.Restarts)
	}
}

func (w *work) String() string {
	if w.Build == 0 {
		return w.Patch
	}
	return fmt.Sprintf("%s to build %d", w.Patch, w.Build)
}

func (d waiting) String() string {
	text := fmt.Sprintf("%q", d.Patch)
	if d.Build != nil {
		text += fmt.Sprintf(" (build %d)", *d.Build)
	}
	text += ", " + d.Reason + ": " + cmp.Or(d.Detail, "see the log")
	g := d.Gate
	if g == nil {
		return text
	}
	text += fmt.Sprintf("; since %s, until %s at the latest", stamp(g.Since), stamp(g.Until))
	switch {
	case g.Asking:
		text += ", being asked now"
	case g.Next != nil:
		text += ", asked again at " + stamp(*g.Next)
	}
	return text
}
