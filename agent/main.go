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
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(Run(ctx, os.Args[1:], Streams{Out: os.Stdout, Err: os.Stderr}))
}

// Streams are where a command writes: Out is what a script reads, Err the rest.
type Streams struct {
	Out, Err io.Writer
}
