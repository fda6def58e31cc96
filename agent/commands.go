package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"patchagent/agent/config"
)

// The exit statuses, the same for every command.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRejected = 3
	exitLater    = 5
	exitUnread   = 128 + 13 // of whoever SIGPIPE ends, as a shell shows it
)

const exitHelp = `
Exit status: 0 done or applied, 1 failed, 2 wrong usage or configuration,
3 rejected, 4 rolled back, 5 not now (deferred, held, timed out).`

// printed is what a command prints to. It remembers why that came to an end.
type printed struct {
	io.Writer
	err error
}

func (p *printed) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if err != nil {
		p.err = err
	}
	return n, err
}

// exitError carries an exit status; err is what to say, nil if all is said.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Run is the program: it carries out args and returns the exit status.
func Run(ctx context.Context, args []string, io Program) int {
	out := &printed{Writer: io.Out}
	io.Out = out
	root := rootCommand(io)
	root.SetArgs(args)
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	status, usage := exitUsage, true // cobra's own errors are about the command line
	if e, ok := errors.AsType[*exitError](err); ok {
		status, err, usage = e.status, e.err, false
	}
	if out.err != nil && errors.Is(err, out.err) {
		if errors.Is(err, syscall.EPIPE) {
			return exitUnread // whoever read it has read enough
		}
		status, usage = exitFailed, false
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(io.Err, "patchagent: %v\n", err)
		if usage {
			fmt.Fprintln(io.Err, "Run `patchagent --help` for usage.")
		}
	}
	return status
}

func rootCommand(io Program) *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:   "patchagent",
		Short: "Apply patches that are dropped into a folder to the files of a running process",
		Long: `Patchagent watches a folder. A zip that is dropped into it is checked and applied
to the files of the process that the agent supervises: warm (the process is told)
or cold (it is stopped and started again). The outcome is in the log. Without a
command it runs the agent.
` + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAgent(cmd.Context(), file, io)
		},
	}
	root.PersistentFlags().StringVarP(&file, "config", "c", "agent.toml", "the configuration `FILE`")
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, cmd := range []*cobra.Command{
		{
			Use: "run", Short: "Watch, verify, apply, supervise (the default)", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), file, io) },
		},
		{
			Use: "check", Short: "Is the configuration sound, and can it work on this machine?", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return check(cmd.Context(), file, io) },
		},
		{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(io.Out, "patchagent", version())
				return err
			},
		},
		inspectCommand(&file, io),
		planCommand(&file, io),
		statusCommand(&file, io),
		historyCommand(&file, io),
		rollbackCommand(&file, io),
		restartCommand(&file, io),
		keygenCommand(io),
		signCommand(io),
	} {
		cmd.Long = cmd.Short
		if !strings.HasSuffix(cmd.Short, "?") {
			cmd.Long += "."
		}
		cmd.Long += "\n" + exitHelp
		root.AddCommand(cmd)
	}
	return root
}

// version is the module's version, and the revision that it was built from where
// the build recorded one.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	var v strings.Builder
	v.WriteString(info.Main.Version)
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.WriteString(" " + s.Value)
		}
	}
	return v.String() + " " + info.GoVersion
}

// loadConfig reads the configuration; its errors end a command with exitUsage.
func loadConfig(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	if err == nil {
		return cfg, nil
	}
	if _, is := errors.AsType[*config.Error](err); !is {
		err = fmt.Errorf("cannot read the configuration: %w; name the file with -c FILE", err)
	}
	return nil, &exitError{exitUsage, err}
}
