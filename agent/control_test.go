package main

import (
	"context"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// Who interrupts the command for a rollback is told whether the agent has begun it.
func TestRollbackCommandIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	c, err := listen(dir, hclog.NewNullLogger(), func() status { return status{} })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	serving, end := context.WithCancel(t.Context())
	go func() { ended <- c.Run(serving) }()
	defer func() { end(); <-ended }()
	c.open.Store(true)

	for when, want := range map[string]string{"before it is asked": "was not begun", "before it begins": "was not begun", "when it has begun": "goes on with it"} {
		ctx, interrupt := context.WithCancel(t.Context())
		switch when {
		case "before it is asked":
			interrupt()
		case "before it begins":
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { interrupt() }})
		default:
			go func() { <-c.requests; interrupt() }()
		}
		if said, err := askAgent(ctx, dir, rollback{}); err != nil || said.Status != exitFailed || !strings.Contains(said.Message, want) {
			t.Errorf("interrupted %s: %+v, %v", when, said, err)
		}
		interrupt()
	}
}
