package applier

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// What begins the detail of a Result that is Failed: it says first what people who wait
// for the service have of it.
const (
	// TreeBetween is for a process that runs, or was left as it was.
	TreeBetween = "the tree may be neither the old build nor the new one: "
	// ProcessDownBetween is for one that is down, and stays so.
	ProcessDownBetween = "the process is DOWN, and " + TreeBetween
)

// failed is the result of a transaction that could not be undone. The time for which a
// process is away goes on; what is told of it is the part until now.
func (tx *Tx) failed(p Process, cause *reason.Error, err error) Result {
	how, down := TreeBetween, tx.down
	if !p.Up() {
		how = ProcessDownBetween
		if !tx.stopped.IsZero() {
			down += tx.since()
		}
	}
	return Result{Outcome: reason.Failed, Code: reason.RollbackFailed, Downtime: down,
		Detail: fmt.Sprintf("%scannot undo the patch: %v; it was to be undone because: %s (%s)", how, err, cause.Detail, cause.Code)}
}

// undoFailed says of which place a step could not be undone, as it is called on this
// machine, and what keeps it from that where that can be seen.
func (tx *Tx) undoFailed(s journal.Step, err error) error {
	return fmt.Errorf("%s: %w%s", tx.a.onMachine(s.Path), plainly(err), tx.fixedHint(s, err))
}

// plainly leaves out of an error the names in the stage, which mean nothing to anybody
// else, and the name that is told with it anyway.
func plainly(err error) error {
	switch e := err.(type) { // not what is wrapped: the words around that would be lost
	case *os.LinkError:
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	case *fs.PathError:
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// onMachine is a place of the tree as an operator would type it.
func (a *Applier) onMachine(place string) string {
	return filepath.Join(a.opts.Root, filepath.FromSlash(place))
}

// fixedHint is for an error that a user with all rights does not expect: chattr(1) has
// made the place, or the folder that it is in, immutable or append-only.
func (tx *Tx) fixedHint(s journal.Step, err error) string {
	if !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	for _, place := range []string{s.Path, path.Dir(s.Path)} {
		if fixed := tx.a.fixed(place); fixed != "" {
			at := tx.a.onMachine(place)
			return fmt.Sprintf(" (%s is %s: see `lsattr -d %s`, mend it with `chattr -ia %s`)", at, fixed, at, at)
		}
	}
	return ""
}

// fixed is that of a place's marks; "" also if they cannot be had.
func (a *Applier) fixed(place string) string {
	if place == "." {
		return a.top().fixed
	}
	dir, err := a.openFolder(path.Dir(place))
	if err != nil {
		return ""
	}
	defer dir.Close()
	return marksOf(dir, path.Base(place)).fixed
}

// Pending is the plan of the transaction that is open in a state folder, if there is one:
// it goes on, or could not be undone, or waits for the next start of an agent. It touches
// nothing and needs no lock. The errors are of the file; no transaction is none.
func Pending(state string) (*journal.Plan, error) {
	plan, err := journal.Read(JournalPath(state))
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which patch is under way: %w", err)
	}
	return &plan, nil
}
