package applier

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/bmatcuk/doublestar/v4"

	"patchagent/manifest/reason"
)

// protected refuses a path that target.protect or the agent's own files cover.
func (a *Applier) protected(p string) error {
	for up := p; up != "."; up = path.Dir(up) {
		for _, glob := range a.opts.Protect {
			if ok, _ := doublestar.Match(glob, up); ok {
				return reason.Errorf(reason.ProtectedPath, "%s is protected by %q in target.protect", p, glob)
			}
		}
	}
	return a.ownName(p)
}

// ownName refuses the agent's own files by their names.
func (a *Applier) ownName(p string) error {
	full := filepath.Join(a.realRoot, filepath.FromSlash(p))
	for _, guard := range a.opts.Guard {
		if within(full, guard) || within(guard, full) {
			return reason.Errorf(reason.ProtectedPath, "%s would change %s, which belongs to the agent", p, guard)
		}
	}
	return nil
}

// A guard is one of the agent's own files or folders as it is on the disk.
type guard struct {
	path string
	info fs.FileInfo
}

// identify looks the agent's own files up anew for each plan: an editor that saves
// agent.toml makes another file of it.
func (a *Applier) identify() {
	a.guards = nil
	for _, path := range a.opts.Guard {
		for _, stat := range []func(string) (fs.FileInfo, error){os.Stat, os.Lstat} {
			if info, err := stat(path); err == nil {
				a.guards = append(a.guards, guard{path, info})
			}
		}
	}
}

// own refuses the agent's own files under whatever name the tree has them: spelled
// otherwise where case does not count, bound there by a mount, or linked. To replace
// a hard link would leave the agent's file alone, and no patch needs to.
func (a *Applier) own(name string, info fs.FileInfo) error {
	for _, g := range a.guards {
		if os.SameFile(g.info, info) {
			return reason.Errorf(reason.ProtectedPath, "%s is another name of %s, which belongs to the agent", name, g.path)
		}
	}
	return nil
}

// within says whether p is dir or below it.
func within(p, dir string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && filepath.IsLocal(rel)
}
