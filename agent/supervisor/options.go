package supervisor

import (
	"io"
	"io/fs"
	"syscall"
	"time"
)

// Policy says when a process that ended by itself is started again.
type Policy string

// The policies.
const (
	OnFailure Policy = "on-failure"
	Always    Policy = "always"
	Never     Policy = "never"
)

// Options say what is run, and how.
type Options struct {
	Command     []string          // with a slash: relative to Dir; without: found in PATH
	Dir         string            // working directory
	Env         map[string]string // added to a minimal environment
	User        string            // run as; "" is the agent's own
	StopSignal  syscall.Signal    // SIGTERM if zero
	StopTimeout time.Duration     // then SIGKILL
	Restart     Policy
	Output      string        // stdout and stderr are appended there; "" is the agent's own
	Spool       string        // to the agent's own by way of the files Spool.out and Spool.err; "": without
	Sockets     []Socket      // held for it
	Limits      Limits        // what it may use, and how it is treated
	Watchdog    time.Duration // it has to give a sign of life so often (WATCHDOG=1); 0: it need not
	Ready       Ready
	Reload      Reload
	Precheck    []string // a command that has to succeed on new files
	Health      Health
	Backoff     Backoff
	StateFile   string // where the running process is on record
	Hooks       Hooks
	Verbs       Verbs // of an External

	OutputMaxSize  int64 // bytes; 0: not rotated
	OutputMaxFiles int

	Stdout, Stderr io.Writer // what is spooled is copied there; nil: os.Stdout, os.Stderr

	noCgroup bool // as where none can be had; for tests
}

// startsBy is what decides whether and how a start works.
func (o Options) startsBy() Options {
	return Options{Command: o.Command, Dir: o.Dir, Env: o.Env, User: o.User, Output: o.Output, Sockets: o.Sockets, Limits: o.Limits, Ready: o.Ready}
}

// A Socket is held by the agent for the process, which finds it open when it starts.
type Socket struct {
	Listen      string      // "tcp:host:port", "unix:/path"
	Name        string      // in LISTEN_FDNAMES
	Mode        fs.FileMode // of a unix socket; 0: 0666
	User, Group string      // that a unix socket belongs to; "": whose the process is, and that user's own
	Nonblocking bool        // it is handed over so
}

// Limits are set between fork and exec.
type Limits struct {
	Umask     *int
	Nice      *int
	Resources []Resource
}

// A Resource is one limit of setrlimit(2).
type Resource struct {
	Name       string // as in its man page, in lower case without RLIMIT_: nofile
	Soft, Hard uint64
}

// Ready is when a started process counts as up: HTTP, TCP or Exec if one is set, or
// when it says so itself (Notify), otherwise after living for Delay.
type Ready struct {
	Delay  time.Duration
	Notify bool // READY=1
	Probe
	Timeout time.Duration
}

// A State is what the process is doing.
type State string

// The states.
const (
	Stopped  State = "stopped"  // not asked for
	Starting State = "starting" // not ready yet
	Running  State = "running"  // ready
	Stopping State = "stopping"
	Waiting  State = "back-off" // failed; will be started again
	Failed   State = "failed"   // failed too often; stays down
	Ended    State = "ended"    // ended by itself, and the policy leaves it so
)

// Status is a snapshot.
type Status struct {
	State    State     `json:"state"`
	PID      int       `json:"pid"` // 0: none
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit"`

	// LastError is why the last start failed; empty once it is up.
	LastError string `json:"last_error"`

	Text string `json:"status"` // what the process last said of itself (STATUS=)

	// External is a service of another manager: PID is 0, Since is when State was first
	// seen (zero: nothing was yet), and Restarts are the attempts to start it again.
	External bool `json:"external"`
}
