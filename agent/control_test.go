package main

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// Who interrupts a command for a rollback or a restart is told whether the agent has begun
// it.
func TestCommandIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	agent, err := listen(dir, hclog.NewNullLogger(), func() status { return status{} })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	serving, end := context.WithCancel(t.Context())
	go func() { ended <- agent.Run(serving) }()
	defer func() { end(); <-ended }()
	agent.open.Store(true)

	for _, c := range []struct{ what, when, want string }{
		{"rollback", "before it is asked", "the rollback was not begun"},
		{"rollback", "before it begins", "the rollback was not begun"},
		{"rollback", "when it has begun", "begun the rollback and goes on with it"},
		{"restart", "before it is asked", "the restart was not begun"},
		{"restart", "before it begins", "the restart was not begun"},
		{"restart", "when it has begun", "begun the restart and goes on with it"},
	} {
		var waiting sync.WaitGroup
		ctx, interrupt := context.WithCancel(t.Context())
		switch c.when {
		case "before it is asked":
			interrupt()
		case "before it begins":
			waiting.Go(func() { eventually(ctx, agent.asked); interrupt() })
		default:
			waiting.Go(func() { <-agent.requests; interrupt() })
		}
		if said, err := askAgent(ctx, dir, c.what, rollback{}); err != nil || said.Status != exitFailed || !strings.Contains(said.Message, c.want) {
			t.Errorf("%s interrupted %s: %+v, %v", c.what, c.when, said, err)
		}
		interrupt()
		waiting.Wait()
	}
}
