//go:build !linux

package supervisor

import (
	"time"

	"patchagent/agent/sdnotify"
)

// listening exists on Linux only.
type listening struct {
	*sdnotify.Listener
	trouble error
}

func (s *Supervisor) listen() func() {
	s.notify.trouble = errSystem
	return func() {}
}

func (*Supervisor) attend(*child, bool, time.Duration) {}

// store exists on Linux only.
type store struct{}

func (*store) prune() {}
