package applier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// A Tx is a transaction whose plan is in the journal. Its tree is the old build
// before Commit and the new one after it; if one of its methods fails, only
// Rollback tells which.
type Tx struct {
	a       *Applier
	j       *journal.Journal
	stage   *os.File
	notes   []string
	lost    error         // why the process could not be brought back to the old files, and is down
	stopped time.Time     // when a cold patch sent its stop signal, until the process is up
	down    time.Duration // for how long the process was away until it was ready

	untouched bool // by all agents before this one
}

// State says how far it has come.
func (tx *Tx) State() journal.State { return tx.j.Last.State }

// Cause says why it is being undone, or was.
func (tx *Tx) Cause() (reason.Code, string) { return tx.j.Last.Code, tx.j.Last.Detail }

// Plan is what it set out to do.
func (tx *Tx) Plan() journal.Plan { return tx.j.Plan }

// Name is the file name of the patch, or words for a rollback by hand.
func (tx *Tx) Name() string {
	if tx.j.Plan.Back() {
		return "a rollback"
	}
	return tx.j.Plan.Patch
}

func (tx *Tx) log() hclog.Logger { return tx.a.log.With("patch", tx.Name(), "id", tx.j.Plan.ID) }

// Commit makes the tree the new build and makes that durable. After an error the
// tree may be in between.
func (tx *Tx) Commit() error {
	for i, s := range tx.j.Plan.Steps {
		if err := tx.a.fault("commit step %d", i); err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		if err := tx.do(s); err != nil {
			return fmt.Errorf("%s: %w", s.Path, plainly(err))
		}
	}
	if err := tx.sync(); err != nil {
		return err
	}
	if err := tx.a.fault("committed"); err != nil {
		return err
	}
	return tx.enter(journal.Entry{State: journal.Committed})
}

// undo makes the tree the old build again and makes that durable. It can be
// repeated. The journal has to say Undoing first, unless it still says Prepared.
func (tx *Tx) undo() error {
	for i, s := range slices.Backward(tx.j.Plan.Steps) {
		err := tx.a.fault("undo step %d", i)
		if err == nil {
			err = tx.undoStep(s)
		}
		if err != nil {
			return tx.undoFailed(s, err)
		}
	}
	return tx.sync()
}

// do and undoStep: each kind's two halves stand side by side.

func (tx *Tx) do(s journal.Step) error {
	if astray := tx.astray(path.Dir(s.Path)); astray != "" {
		return fmt.Errorf("%s was a folder when the patch was planned and is none now", astray)
	}
	dir, base, err := tx.place(s)
	if isNotExist(err) && s.Kind == journal.StepDelete {
		return nil // gone with its folder
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	switch s.Kind {
	case journal.StepMkdir:
		if err := tx.a.root.Mkdir(s.Path, 0o755); err != nil {
			return err
		}
		return tx.a.root.Chmod(s.Path, 0o755) // whatever the umask is
	case journal.StepReplace:
		if _, err := tx.a.root.Lstat(s.Path); isNotExist(err) {
			return moveNew(tx.stage, s.Stage, dir, base) // the process removed it since
		}
		if tx.j.Plan.Exchange {
			return exchange(tx.stage, s.Stage, dir, base)
		}
		return swapByLink(tx.stage, s.Stage, dir, base)
	case journal.StepCreate:
		return moveNew(tx.stage, s.Stage, dir, base)
	case journal.StepDelete:
		return tx.doDelete(s, dir, base)
	default:
		return fmt.Errorf("unknown kind of step %q", s.Kind)
	}
}

// doDelete moves the file or the empty folder out. The process may have removed it
// since the plan, at its stop for instance; or put something into the folder, which
// then goes back.
func (tx *Tx) doDelete(s journal.Step, dir *os.File, base string) error {
	err := moveNew(dir, base, tx.stage, s.Stage)
	if isNotExist(err) {
		return nil
	}
	if err != nil || !s.Old.Mode.IsDir() || s.Aside {
		return err
	}
	inside, err := os.ReadDir(tx.stagePath(s.Stage))
	if err == nil && len(inside) > 0 {
		err = errors.New("the folder is no longer empty, so it is not deleted")
	}
	if err != nil {
		return errors.Join(err, moveNew(tx.stage, s.Stage, dir, base))
	}
	return nil
}

func (tx *Tx) undoStep(s journal.Step) error {
	if tx.unreached(s) {
		return nil
	}
	dir, base, err := tx.place(s)
	if isNotExist(err) && s.Old == nil {
		return nil // its folder was never made, or is gone with all in it
	}
	if isNotExist(err) {
		tx.note("the folder of %s was gone and is made again", s.Path)
		if err := tx.a.root.MkdirAll(path.Dir(s.Path), 0o755); err != nil {
			return err
		}
		dir, base, err = tx.place(s)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	switch s.Kind {
	case journal.StepMkdir:
		return tx.undoMkdir(s)
	case journal.StepReplace:
		return tx.undoReplace(s, dir, base)
	case journal.StepCreate:
		return tx.undoCreate(s, dir, base)
	case journal.StepDelete:
		return tx.undoDelete(s, dir, base)
	default:
		return fmt.Errorf("unknown kind of step %q", s.Kind)
	}
}

// unreached says that there is nothing to undo in a folder that is none any more:
// somebody put a link or a file in its place before the commit came there. What a
// link leads to is not looked at, it may have nothing to do with the step.
func (tx *Tx) unreached(s journal.Step) bool {
	astray := tx.astray(path.Dir(s.Path))
	if astray == "" {
		return false
	}
	_, staged := os.Lstat(tx.stagePath(s.Stage))
	switch s.Kind {
	case journal.StepMkdir:
		tx.note("%s is no longer a folder, so %s, if the patch made it, stays where that folder is now", astray, s.Path)
		return true
	case journal.StepReplace:
		_, old := os.Lstat(tx.stagePath(s.Stage + oldSuffix))
		is, err := tx.stageIs(s.New, s.Stage)
		return is && err == nil && isNotExist(old)
	case journal.StepCreate:
		return staged == nil
	default:
		return isNotExist(staged)
	}
}

func (tx *Tx) undoMkdir(s journal.Step) error {
	err := tx.a.root.Remove(s.Path)
	if notEmpty(err) {
		tx.note("%s was made by the patch and is no longer empty, so it stays", s.Path)
		return nil
	}
	if isNotExist(err) {
		return nil
	}
	return err
}

// undoReplace swaps back, unless the old file is in its place or the new one
// still in the stage. Whatever else is in the stage by then is the old file, even
// if somebody changed it between the plan and the commit.
func (tx *Tx) undoReplace(s journal.Step, dir *os.File, base string) error {
	if !tx.j.Plan.Exchange {
		return tx.unswapByLink(s, dir, base)
	}
	if done, err := tx.liveIs(s.Old, s.Path); err != nil || done {
		return err
	}
	if staged, err := tx.stageIs(s.New, s.Stage); err != nil || staged {
		return err
	}
	tx.changed(s)
	if _, err := tx.a.root.Lstat(s.Path); isNotExist(err) {
		return moveNew(tx.stage, s.Stage, dir, base)
	}
	if _, err := os.Lstat(tx.stagePath(s.Stage)); isNotExist(err) {
		return moveNew(dir, base, tx.stage, s.Stage) // there was no old one any more
	}
	return exchange(tx.stage, s.Stage, dir, base)
}

// unswapByLink is undoReplace where names cannot be swapped: the old file has a
// second name in the stage from before the new one took its place.
func (tx *Tx) unswapByLink(s journal.Step, dir *os.File, base string) error {
	_, err := os.Lstat(tx.stagePath(s.Stage + oldSuffix))
	if isNotExist(err) {
		// Never done, or undone already; or there was no old one any more.
		if moved, err := tx.liveIs(s.New, s.Path); err != nil || !moved {
			return err
		}
		return tx.undoCreate(s, dir, base)
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(tx.stagePath(s.Stage)); err == nil {
		return tx.unswapHalf(s, dir, base)
	}
	if tx.changed(s) {
		// It must not be overwritten; for a moment the name is free.
		if err := moveNew(dir, base, tx.stage, s.Stage); err != nil && !isNotExist(err) {
			return err
		}
	}
	return moveOver(tx.stage, s.Stage+oldSuffix, dir, base)
}

// unswapHalf is for a swap that came no further than the second name, or whose
// undoing did not: the new file is in the stage, so it is not in the tree.
func (tx *Tx) unswapHalf(s journal.Step, dir *os.File, base string) error {
	old := s.Stage + oldSuffix
	kept, err := os.Lstat(tx.stagePath(old))
	if err != nil {
		return err
	}
	live, err := tx.a.root.Lstat(s.Path)
	switch {
	case err == nil && os.SameFile(kept, live):
		return nil
	case err == nil:
		tx.note("%s had been made again; the old file is back in its place", s.Path)
		if err := moveNew(dir, base, tx.stage, s.Stage+asideSuffix); err != nil {
			return err
		}
	case !isNotExist(err):
		return err
	}
	return moveNew(tx.stage, old, dir, base)
}

// undoCreate moves the file back into the stage, as it may be by now.
func (tx *Tx) undoCreate(s journal.Step, dir *os.File, base string) error {
	if _, err := os.Lstat(tx.stagePath(s.Stage)); err == nil {
		return nil // never moved in, or moved out already
	} else if !isNotExist(err) {
		return err
	}
	tx.changed(s)
	if err := moveNew(dir, base, tx.stage, s.Stage); !isNotExist(err) {
		return err
	}
	return nil // somebody removed it
}

// undoDelete moves the file back from the stage. What took its place in the
// meantime goes aside into the stage.
func (tx *Tx) undoDelete(s journal.Step, dir *os.File, base string) error {
	if _, err := os.Lstat(tx.stagePath(s.Stage)); err != nil {
		if isNotExist(err) {
			return nil // never moved out, or back already
		}
		return err
	}
	if _, err := tx.a.root.Lstat(s.Path); err == nil {
		tx.note("%s was deleted by the patch and had been made again; the old one is back in its place", s.Path)
		if err := moveNew(dir, base, tx.stage, s.Stage+asideSuffix); err != nil {
			return err
		}
	}
	return moveNew(tx.stage, s.Stage, dir, base)
}

const (
	oldSuffix   = ".old"   // the second name of a live file that is replaced by link and rename
	asideSuffix = ".aside" // what stood in the way of going back
)

func (tx *Tx) note(format string, args ...any) {
	tx.notes = append(tx.notes, fmt.Sprintf(format, args...))
}

// changed notes a file that is no longer what the patch put there.
func (tx *Tx) changed(s journal.Step) bool {
	is, err := tx.liveIs(s.New, s.Path)
	if err != nil || is {
		return false
	}
	tx.note("%s had been changed since the patch; the old file is back in its place", s.Path)
	return true
}

func (tx *Tx) stagePath(name string) string { return filepath.Join(tx.stage.Name(), name) }

func (tx *Tx) stageIs(want *journal.Object, name string) (bool, error) {
	info, err := os.Lstat(tx.stagePath(name))
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return matches(want, info, func() (string, error) {
		if info.Mode().Type() == fs.ModeSymlink {
			return os.Readlink(tx.stagePath(name))
		}
		f, err := os.Open(tx.stagePath(name))
		if err != nil {
			return "", err
		}
		defer f.Close()
		return digest(context.Background(), f)
	})
}

func (tx *Tx) liveIs(want *journal.Object, place string) (bool, error) {
	info, err := tx.a.root.Lstat(place)
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return matches(want, info, func() (string, error) {
		if info.Mode().Type() == fs.ModeSymlink {
			return tx.a.root.Readlink(place)
		}
		return tx.a.digestOf(place)
	})
}

// astray is the first folder on the way that is something else now, a link above
// all; "" if there is none. The places of a plan have no links in them, so a link
// there came after it, and leads to what nobody has checked. One that is made after
// this is not followed either (openAt), but the sentence would be another.
func (tx *Tx) astray(dir string) string {
	var found string
	for ; dir != "."; dir = path.Dir(dir) {
		if info, err := tx.a.root.Lstat(dir); err == nil && !info.IsDir() {
			found = dir
		}
	}
	return found
}

// place opens the folder of a step's place.
func (tx *Tx) place(s journal.Step) (*os.File, string, error) {
	dir, err := openAt(tx.a.root, tx.a.tree, path.Dir(s.Path))
	return dir, path.Base(s.Path), err
}

// fewFolders is up to how many folders are synced one by one. For more, one sync
// of the whole filesystem is cheaper, although it also writes what other programs
// have not yet written.
const fewFolders = 32

// sync makes every folder durable that a step may have changed, and the stage.
func (tx *Tx) sync() error {
	if err := tx.a.fault("sync tree"); err != nil {
		return err
	}
	dirs := map[string]bool{}
	for _, s := range tx.j.Plan.Steps {
		dirs[path.Dir(s.Path)] = true
		if s.Kind == journal.StepMkdir {
			dirs[s.Path] = true
		}
	}
	if len(dirs) > fewFolders && syncsFilesystem {
		return syncFilesystem(tx.stage)
	}
	for dir := range dirs {
		if err := tx.syncFolder(dir); err != nil {
			return err
		}
	}
	return tx.stage.Sync()
}

func (tx *Tx) syncFolder(dir string) error {
	d, err := openAt(tx.a.root, tx.a.tree, dir)
	if isNotExist(err) || err != nil && tx.astray(dir) != "" {
		return nil // it was undone, or never made, or is no longer in the tree
	}
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// begin records that the transaction is being undone, and why.
func (tx *Tx) begin(cause *reason.Error) error {
	if tx.State() == journal.Undoing {
		return nil
	}
	if err := tx.a.fault("undoing"); err != nil {
		return err
	}
	return tx.enter(journal.Entry{State: journal.Undoing, Code: cause.Code, Detail: cause.Detail, Output: cause.Output})
}
