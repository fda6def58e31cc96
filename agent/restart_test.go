package main

import (
	"errors"
	"strings"
	"testing"

	"patchagent/agent/supervisor"
)

// A process that is not to be started is not stopped either.
func TestRestartIsRefused(t *testing.T) {
	for want, a := range map[string]*agent{
		"(rollback-failed)":     {failed: true},
		"the disk is not sound": {fatal: errors.New("the disk is not sound")},
	} {
		if said := a.restart(t.Context()); said.Status != exitFailed || !strings.Contains(said.Message, "not restarted: ") || !strings.Contains(said.Message, want) {
			t.Errorf("%+v, want %q", said, want)
		}
	}
}

func TestRestartedIsTold(t *testing.T) {
	for want, c := range map[string]struct {
		is   supervisor.Status
		down bool
	}{
		"the process is restarted: pid 7, away for 14 ms":  {supervisor.Status{PID: 7}, false},
		"the process is started: pid 7, ready after 14 ms": {supervisor.Status{PID: 7}, true},
		"the service is restarted, away for 14 ms":         {supervisor.Status{External: true}, false},
		"the service is started, ready after 14 ms":        {supervisor.Status{External: true}, true},
	} {
		if got := restarted(c.is, c.down, 14_900_000); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
