package applier

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"patchagent/applier/journal"
)

// A Build is one that can be returned to: what the patch after it has replaced is
// kept.
type Build struct {
	Build    int64     `json:"build"`
	Replaced time.Time `json:"replaced"` // when the patch after it began
	By       int64     `json:"by"`       // the build of that patch
	Patch    string    `json:"patch"`    // and its file name
	Warm     bool      `json:"-"`

	name string // of its folder
	plan journal.Plan
}

// goingPrefix begins the name of a kept build that is being removed.
const goingPrefix = "."

// Builds returns the kept builds, newest first, each of which was replaced by the one
// before it in the list. After an error the list ends before the build that cannot be
// read: what is behind it cannot be reached either. It needs no lock.
func (a *Applier) Builds() ([]Build, error) {
	names, err := a.buildNames()
	if err != nil {
		return nil, err
	}
	var all []Build
	for _, name := range slices.Backward(names) {
		plan, err := journal.Read(filepath.Join(a.opts.State, buildsName, name, journalName))
		if err != nil {
			return all, fmt.Errorf("cannot use a kept build: %w", err)
		}
		if n := len(all); n > 0 && all[n-1].Build != plan.Build || !a.ownRoot(plan) {
			break // what is between the two is not known, so neither is the way back
		}
		all = append(all, Build{Build: plan.FromBuild, Replaced: plan.Started, By: plan.Build, Patch: plan.Patch, Warm: plan.Warm, name: name, plan: plan})
	}
	return all, nil
}

// buildNames are the names of the folders, oldest first.
func (a *Applier) buildNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(a.opts.State, buildsName))
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for kept builds: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Close ends the transaction; it is called when the outcome is on record, and again
// after an error. One that stays becomes a kept build, in one rename. A rollback
// by hand first puts aside what it was told to, then uses up the builds that it went
// back over. Otherwise the journal goes, durably, then what the stage still holds.
func (tx *Tx) Close() error {
	if err := tx.a.fault("close"); err != nil {
		return err
	}
	if tx.State() == journal.Committed {
		if !tx.j.Plan.Back() && tx.a.opts.Keep > 0 {
			return tx.keep()
		}
		if err := tx.forgetBuilds(); err != nil {
			return err
		}
		if err := tx.a.fault("remove journal"); err != nil {
			return err
		}
	}
	if err := tx.putAside(); err != nil {
		return err
	}
	if err := tx.j.Remove(); err != nil {
		return err
	}
	_ = tx.stage.Close()
	tx.a.clean()
	return nil
}

// forgetBuilds removes the kept builds that lead back from a build that is no longer
// there: those that a rollback by hand has used up, or all, where this patch is not
// kept.
func (tx *Tx) forgetBuilds() error {
	names := tx.j.Plan.Undoes
	if !tx.j.Plan.Back() {
		var err error
		if names, err = tx.a.buildNames(); err != nil {
			return err
		}
	}
	return tx.a.forget(names)
}

// keep makes the folder of the transaction a kept build.
func (tx *Tx) keep() error {
	names, err := tx.a.buildNames()
	if err != nil {
		return err
	}
	var number uint64 = 1
	if len(names) > 0 {
		last, _ := strconv.ParseUint(names[len(names)-1], 10, 64)
		number = last + 1
	}
	tx.j.Trim()
	tx.j.Close()
	_ = tx.stage.Close()
	builds := filepath.Join(tx.a.opts.State, buildsName)
	if _, err := os.Lstat(tx.a.journalPath()); err == nil { // else an earlier call came so far
		if err := os.Rename(tx.a.txPath(), filepath.Join(builds, fmt.Sprintf("%020d", number))); err != nil {
			return fmt.Errorf("cannot keep the old build: %w", err)
		}
	}
	if err := tx.a.fault("keep"); err != nil {
		return err
	}
	if err := errors.Join(journal.SyncDir(builds), journal.SyncDir(tx.a.opts.State)); err != nil {
		return err
	}
	tx.a.prune()
	return nil
}

// putAside moves what is in the stage and is nobody's else, out of it: files that were
// changed by hand, or by the process, after a patch or while it was stopped.
func (tx *Tx) putAside() error {
	moved := false
	for _, s := range tx.j.Plan.Steps {
		names, err := tx.strays(s)
		if err != nil {
			return fmt.Errorf("cannot put %s aside: %w", s.Path, err)
		}
		for _, name := range names {
			to := filepath.Join(tx.AsideDir(), filepath.FromSlash(s.Path))
			err := os.MkdirAll(filepath.Dir(to), 0o700)
			if err == nil {
				err = os.Rename(tx.stagePath(name), to)
			}
			if err != nil {
				return fmt.Errorf("cannot put %s aside: %w", s.Path, err)
			}
			tx.a.log.Warn("a file that the rollback replaced is kept aside", "file", to)
			moved = true
		}
	}
	if !moved {
		return nil
	}
	if err := tx.a.fault("aside"); err != nil {
		return err
	}
	return syncFilesystem(tx.a.state)
}

// strays are the names in the stage of what a step has taken out of the tree and is
// neither the old nor the new file of the plan.
func (tx *Tx) strays(s journal.Step) ([]string, error) {
	own, name := s.New, s.Stage // an undone step has its new file back
	if tx.State() == journal.Committed {
		if !tx.j.Plan.Back() {
			return nil, nil
		}
		if own = s.Old; s.Kind == journal.StepReplace && !tx.j.Plan.Exchange {
			name += oldSuffix
		}
	}
	var strays []string
	for _, name := range []string{name, s.Stage + asideSuffix} {
		info, err := os.Lstat(tx.stagePath(name))
		if isNotExist(err) || s.Stage == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		is := false
		if !s.Aside && !strings.HasSuffix(name, asideSuffix) {
			if is, err = tx.stageIs(own, name); err != nil {
				return nil, err
			}
		}
		if is && info.IsDir() {
			inside, err := os.ReadDir(tx.stagePath(name))
			if err != nil {
				return nil, err
			}
			is = len(inside) == 0
		}
		if !is {
			strays = append(strays, name)
		}
	}
	return strays, nil
}

// AsideDir is where Close puts the files that were made by hand and that a forced
// rollback replaced.
func (tx *Tx) AsideDir() string {
	return filepath.Join(tx.a.opts.State, asideName, tx.j.Plan.ID)
}

// forget takes builds off the list, durably, then removes them.
func (a *Applier) forget(names []string) error {
	if len(names) == 0 {
		return nil
	}
	builds := filepath.Join(a.opts.State, buildsName)
	a.sweep() // a number that is used again may still have one there
	for _, name := range names {
		if err := os.Rename(filepath.Join(builds, name), filepath.Join(builds, goingPrefix+name)); err != nil && !isNotExist(err) {
			return fmt.Errorf("cannot remove a kept build: %w", err)
		}
	}
	if err := a.fault("forget"); err != nil {
		return err
	}
	if err := journal.SyncDir(builds); err != nil {
		return err
	}
	a.sweep()
	return nil
}

// prune removes the oldest builds that are more than are to be kept.
func (a *Applier) prune() {
	names, err := a.buildNames()
	if err == nil {
		err = a.forget(names[:max(0, len(names)-a.opts.Keep)])
	}
	if err != nil {
		a.log.Warn("cannot remove old builds", "error", err)
	}
	a.sweep()
}

// sweep removes what is left of builds that are off the list.
func (a *Applier) sweep() {
	builds := filepath.Join(a.opts.State, buildsName)
	entries, _ := os.ReadDir(builds)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goingPrefix) {
			a.remove(filepath.Join(builds, e.Name()))
		}
	}
}

// clean removes what a transaction has left that has no journal.
func (a *Applier) clean() {
	entries, err := os.ReadDir(a.txPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("cannot clean the stage", "folder", a.txPath(), "error", err)
	}
	for _, e := range entries {
		a.remove(filepath.Join(a.txPath(), e.Name()))
	}
}

// remove is for what nobody needs any more: if it cannot go now, it will the next time.
func (a *Applier) remove(path string) {
	if err := os.RemoveAll(path); err != nil {
		a.log.Warn("cannot remove what is no longer needed", "path", path, "error", err)
	}
}
