// Package applier changes the live tree from one build to the next, and back.
//
// A patch is one straight transaction:
//
//	Plan     what would change, compared with the tree; touches nothing
//	Stage    the new files are written into the state folder, with the mode,
//	         owner and attributes that they will have, and made durable; then the
//	         journal says Prepared
//	Commit   each staged file and its live file swap names; new files move in,
//	         deleted ones move out to the stage; every folder is made durable;
//	         then the journal says Committed
//	Confirm  the process is told (warm.go) or started again (cold.go)
//	(hooks)  commands of the operator's before Commit and around Confirm, and after
//	         Rollback (hook.go)
//	Close    the journal and what the stage holds by now, the old files, become a
//	         kept build; or the journal is removed, then the stage
//
// The swap of a name is one call of the kernel, needs no new blocks on the disk,
// and the same call undoes it: after it the stage holds the old file, which is
// the backup. So Rollback walks the same steps backwards, and Recover, which
// finds a journal at start, does the same from the disk alone. Whether a step was
// done is never remembered, always looked up, so that both may be killed
// anywhere and be repeated.
//
// Kept builds are a stack: each leads back from the build that its patch made to
// the one before (builds.go). A rollback by hand (back.go) puts the steps of one or
// more of them together, the other way round, into one transaction of its own, with
// hard links to the kept files as its staged ones; at its end they are used up.
//
// What each failure leaves:
//
//	Plan, Stage           the tree untouched, no journal
//	Commit, Confirm       rolled back: the tree is the old build, the process runs on it
//	Rollback              the journal stays; nothing more is applied until an
//	                      operator acts, and the next start goes on undoing
//	the agent itself      Recover: before Committed undone, after it confirmed
package applier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/go-hclog"

	"patchagent/applier/journal"
)

// Process is what the applier needs of the supervised process. Errors are
// *reason.Error with the code that the receipt will have, or the context's.
type Process interface {
	// Up says whether the process is running and ready.
	Up() bool
	// Start starts it and returns when it is ready; after an error it is down.
	Start(context.Context, Event) error
	// Prepare gets ready what the next Start needs, while the process still runs. What
	// it cannot get ready, Start does.
	Prepare(context.Context)
	// Stop ends it and all that it started; it is no error if it is down.
	Stop(context.Context, Event) error
	// Hold sees to it that a process that ends by itself, or has ended, is not started
	// while its files are being changed; Start, Reload and Resume end that.
	Hold(context.Context) error
	// Resume ends Hold, and has a process that is down started without waiting for it.
	Resume()
	// Precheck asks whether the process would take the files that are in place now.
	Precheck(context.Context, Event) error
	// Reload tells the running process that its files have changed.
	Reload(context.Context, Event) error
	// StillUp is asked before a patch counts as applied: the process that came up, or was
	// told, must not have ended since.
	StillUp(context.Context) error
	// Hook runs the operator's command for the event, if there is one.
	Hook(context.Context, Event) error
}

// An Event is what a command that runs for a patch finds in its environment.
type Event struct {
	Name      string // PATCHAGENT_EVENT: precheck, stop, start, reload, rollback, or a hook's name
	Patch     string // file name of the drop
	Build     int64
	FromBuild int64
	Strategy  string // warm or cold
	Root      string // the live tree
}

// Env returns the event as KEY=value.
func (e Event) Env() []string {
	return []string{
		"PATCHAGENT_EVENT=" + e.Name,
		"PATCHAGENT_PATCH=" + e.Patch,
		"PATCHAGENT_BUILD=" + strconv.FormatInt(e.Build, 10),
		"PATCHAGENT_FROM_BUILD=" + strconv.FormatInt(e.FromBuild, 10),
		"PATCHAGENT_STRATEGY=" + e.Strategy,
		"PATCHAGENT_ROOT=" + e.Root,
	}
}

// Names of the events.
const (
	EventPrecheck = "precheck"
	EventStop     = "stop"
	EventStart    = "start"
	EventReload   = "reload"
	EventRollback = "rollback"
)

// Options say where an Applier works.
type Options struct {
	Root    string         // the live tree; absolute
	State   string         // the state folder, on the same filesystem; absolute
	Protect []string       // globs relative to Root that no patch may touch
	Guard   func() Guarded // what no patch may touch, looked up for each plan; nil: nothing
	Keep    int            // builds that can be returned to
	Purpose string         // of whoever takes the lock; empty for an agent
	Log     hclog.Logger

	// Fault, if set, is called before each step with its name; an error makes the
	// step fail. Tests use it to fail, or to end the program, at every step.
	Fault func(step string) error
}

// An Applier owns the state folder's transaction. Only one goroutine may use it,
// and only one Applier may exist for a state folder: Open takes its lock.
type Applier struct {
	opts     Options
	log      hclog.Logger
	realRoot string // Root without symbolic links
	root     *os.Root
	tree     *os.File // the root as a folder
	device   uint64   // of the tree
	mount    uint64   // that the tree is on; 0 if the system does not tell
	guards   []guard  // the agent's own files, as of the last plan
	state    *os.File
	lock     *os.File
	exchange bool // the filesystem swaps two names in one call
	probed   bool // that is known
}

// The applier's places in the state folder.
const (
	lockName    = "lock"
	txName      = "tx"     // the transaction under way
	buildsName  = "builds" // the builds that can be returned to
	asideName   = "aside"  // files made by hand that a forced rollback replaced
	probeName   = "probe"
	journalName = "journal" // in tx, and in each of builds
	stageName   = "stage"   // the same
)

// Inspector opens an Applier that can only Plan: it takes no lock and creates
// nothing, so it may be used beside a running agent.
func Inspector(opts Options) (*Applier, error) {
	real, err := filepath.EvalSymlinks(opts.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot use target.root: %w", err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("cannot use target.root: %w", err)
	}
	if opts.Log == nil {
		opts.Log = hclog.NewNullLogger()
	}
	a := &Applier{opts: opts, log: opts.Log, realRoot: real, root: root}
	if err := a.locate(); err != nil {
		a.Close()
		return nil, fmt.Errorf("cannot use target.root: %w", err)
	}
	return a, nil
}

// locate finds out where the tree is; as long as its root is open that stays true.
func (a *Applier) locate() (err error) {
	if a.tree, err = a.root.Open("."); err != nil {
		return err
	}
	info, err := a.tree.Stat()
	if err != nil {
		return err
	}
	a.device, a.mount = device(info), marksOf(a.tree, ".").mount
	return nil
}

// Open takes the lock of the state folder, creates what is missing in it and
// finds out what the filesystem can do. Recover must be called next.
func Open(opts Options) (_ *Applier, err error) {
	a, err := Inspector(opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	for _, dir := range []string{opts.State, filepath.Join(opts.State, buildsName)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot create the state folder: %w", err)
		}
	}
	if a.lock, err = takeLock(filepath.Join(opts.State, lockName), opts.Purpose); err != nil {
		return nil, err
	}
	for _, dir := range []string{opts.State, filepath.Dir(opts.State)} {
		if err := journal.SyncDir(dir); err != nil {
			return nil, err
		}
	}
	if a.state, err = os.Open(opts.State); err != nil {
		return nil, fmt.Errorf("cannot use the state folder: %w", err)
	}
	if err := a.sameMount(); err != nil {
		return nil, err
	}
	if err := a.probe(); err != nil {
		a.log.Warn("cannot find out yet what the filesystem can do", "folder", opts.State, "error", err)
	}
	return a, nil
}

// Close lets go of everything, the lock last. A transaction under way keeps its
// journal.
func (a *Applier) Close() {
	for _, f := range []*os.File{a.tree, a.state, a.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
	_ = a.root.Close()
}

// A LockedError says that another agent works with the same state folder.
type LockedError struct {
	Path string
	PID  string // of the holder, as far as it is known

	// Purpose is what the holder does, if it is no agent: it ends soon.
	Purpose string
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("cannot start: another agent (pid %s) holds %s; stop it first, or give this one a state.dir of its own", e.PID, e.Path)
}

// Configure replaces what may change while the agent runs.
func (a *Applier) Configure(protect []string, guard func() Guarded, keep int) {
	a.opts.Protect, a.opts.Guard, a.opts.Keep = protect, guard, keep
}

// sameMount refuses a state folder from which no file can be renamed into the tree.
func (a *Applier) sameMount() error {
	state, err := a.state.Stat()
	if err != nil {
		return fmt.Errorf("cannot use the state folder: %w", err)
	}
	if a.device != device(state) {
		return fmt.Errorf("cannot work: state.dir %s and target.root %s are on different filesystems, and only within one can a file be replaced in one step; "+
			"put state.dir on the filesystem of target.root", a.opts.State, a.opts.Root)
	}
	if a.mount != marksOf(a.state, ".").mount {
		return fmt.Errorf("cannot work: state.dir %s and target.root %s are on one filesystem but below different mounts, and only within one mount can a file be replaced in one step; "+
			"mount the folder that holds both (with systemd, ReadWritePaths= and BindPaths= make a mount of each folder that they name: name that one), or put state.dir where target.root is mounted",
			a.opts.State, a.opts.Root)
	}
	return nil
}

// probe finds out whether names can be swapped, if that is not known yet.
func (a *Applier) probe() error {
	if a.probed {
		return nil
	}
	names := [2]string{probeName + "-a", probeName + "-b"}
	defer func() {
		for _, name := range names {
			_ = os.Remove(filepath.Join(a.opts.State, name))
		}
	}()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(a.opts.State, name), nil, 0o600); err != nil {
			return err
		}
	}
	a.exchange, a.probed = exchange(a.state, names[0], a.state, names[1]) == nil, true
	if !a.exchange {
		a.log.Info("the filesystem cannot exchange two names, files are replaced by link and rename", "folder", a.opts.State)
	}
	return nil
}

func (a *Applier) fault(format string, args ...any) error {
	if a.opts.Fault == nil {
		return nil
	}
	return a.opts.Fault(fmt.Sprintf(format, args...))
}

func (a *Applier) txPath() string      { return filepath.Join(a.opts.State, txName) }
func (a *Applier) journalPath() string { return JournalPath(a.opts.State) }

// JournalPath is where the journal of the transaction under way is in a state folder.
func JournalPath(state string) string { return filepath.Join(state, txName, journalName) }

// isNotExist is errors.Is(err, fs.ErrNotExist), which every look at a place asks.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
