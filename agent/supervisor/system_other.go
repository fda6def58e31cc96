//go:build !linux

package supervisor

import (
	"errors"
	"syscall"
	"time"
)

// errSystem is what every start says where processes cannot be supervised.
var errSystem = errors.New("this version supervises processes on Linux only")

type exitStatus struct{}

func (exitStatus) String() string { return "unknown" }
func (exitStatus) success() bool  { return false }

// child exists on Linux only.
type child struct {
	pid     int
	started time.Time
	done    chan struct{}
	exit    exitStatus
}

// spool exists on Linux only.
type spool struct{}

func (*spool) bound()                {}
func (s *Supervisor) follow() func() { return func() {} }

func spawn(Options) (*child, error)                                  { return nil, errSystem }
func (*child) signal(syscall.Signal)                                 {}
func (*child) killGroup()                                            {}
func (*child) endsWithin(time.Duration) bool                         { return true }
func writeState(string, int) error                                   { return nil }
func removeState(string)                                             {}
func rotateOutput(string, int64, int) (int64, error)                 { return 0, nil }
func endRecorded(string, syscall.Signal, time.Duration) (int, error) { return 0, nil }
