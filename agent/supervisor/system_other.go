//go:build !linux

package supervisor

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
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
	record  recorded
	done    chan struct{}
	unready error
	exit    exitStatus
	killed  int
	left    []int
	unseen  error
}

// Reaper has nothing to do: what is left behind is the system's here.
type Reaper struct{}

// NewReaper returns a Reaper.
func NewReaper() (*Reaper, error) { return &Reaper{}, nil }

// Run returns at once.
func (*Reaper) Run(context.Context) error { return nil }

// spool exists on Linux only.
type spool struct{}

func (*spool) bound()                {}
func (s *Supervisor) follow() func() { return func() {} }

// ExecMain does nothing: no process is started here.
func ExecMain() {}

// surroundings exist on Linux only.
type surroundings struct{}

func (*Supervisor) surroundings() (surroundings, error) { return surroundings{}, errSystem }

// sockets are held on Linux only.
type sockets struct{ log hclog.Logger }

func (*sockets) keepBy(Keeper, []Inherited) {}
func (*sockets) takeBack(*child, Options)   {}
func (*sockets) tend(Options)               {}
func (*sockets) backlog()                   {}
func (*sockets) close(bool)                 {}
func (*sockets) any() bool                  { return false }

// standby exists on Linux only.
type standby struct{}

func (*Supervisor) prepare()                                   {}
func (*Supervisor) dismiss()                                   {}
func (*Supervisor) withStandby(with surroundings) surroundings { return with }
func (*Supervisor) forgetStandby()                             {}
func (*Supervisor) takeKept() (*keptCopy, error)               { return nil, nil }

// keptCopy exists on Linux only.
type keptCopy struct{}

func (*keptCopy) is(int) bool  { return false }
func (*keptCopy) letGo() error { return nil }

func spawn(Options, surroundings) (*child, error)    { return nil, errSystem }
func reopen(recorded) (*child, int, error)           { return nil, 0, errSystem }
func (*child) signal(syscall.Signal) error           { return nil }
func (*child) remember()                             {}
func (*child) spare()                                {}
func (*child) owns(int) bool                         { return false }
func (*child) close()                                {}
func (*child) endsWithin(time.Duration) bool         { return true }
func (*child) mainEnds(time.Duration) bool           { return true }
func (*child) isToTake() bool                        { return false }
func rotateOutput(string, int64, int) (int64, error) { return 0, nil }
func (*Supervisor) newMain(int) error                { return errSystem }
