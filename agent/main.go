// Patchagent watches a folder for patches, checks each zip that is dropped into
// it, applies it to the files of a process that it supervises, and undoes what
// goes wrong. README.md says how it is used; docs/architecture.md how it is built.
//
// This package is the command line (one file a command) and the loop that owns
// all state (run.go).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"patchagent/agent/supervisor"
)

func main() {
	if os.Args[0] == supervisor.ExecName {
		supervisor.ExecMain()
	}
	os.Exit(start(Program{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Traceback: debug.SetTraceback}))
}

// start runs the program until it ends by itself or is told to.
func start(p Program) int {
	// What the agent was started with is not for what it starts.
	if err := os.Setenv("PATH", supervisor.SafePath(os.Getenv("PATH"))); err != nil {
		return exitFailed
	}
	closeForChildren()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Without a receiver a console that is gone would end the agent at its next line.
	// To ignore the signal is no way out: the process would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return Run(ctx, os.Args[1:], p)
}

// A Program is what a command works with: Out gets what a script reads, Err the rest.
// A passphrase is read from In.
type Program struct {
	In       io.Reader
	Out, Err io.Writer

	// Traceback, if set, is debug.SetTraceback: a trace of a command that handles keys
	// would show parts of them.
	Traceback func(level string)

	// Fault, if set, is called before each step that changes something for good; an
	// error makes the step fail. Tests use it to end the program at every step.
	Fault func(step string) error
}
