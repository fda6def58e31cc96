package applier

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"patchagent/manifest/reason"
)

// protected refuses a path that target.protect or the agent's own files cover.
func (a *Applier) protected(p string) error {
	for up := p; len(a.opts.Protect) > 0 && up != "."; up = path.Dir(up) {
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
	for _, g := range a.guards {
		if g.place == p || isBelow(p, g.place) || isBelow(g.place, p) {
			return reason.Errorf(reason.ProtectedPath, "%s would change %s, which belongs to the agent", p, g.path)
		}
	}
	return nil
}

// isBelow says whether a place is in a folder; all places are in ".".
func isBelow(p, folder string) bool { return folder == "." || strings.HasPrefix(p, folder+"/") }

// A guard is one of the agent's own files or folders as it is on the disk.
type guard struct {
	path  string
	place string        // in the tree; "" if it is not there
	infos []fs.FileInfo // of itself, and of what it leads to
}

// identify looks the agent's own files up anew for each plan: an editor that saves
// agent.toml makes another file of it.
func (a *Applier) identify() {
	a.guards = nil
	if a.opts.Guard == nil {
		return
	}
	for _, path := range a.opts.Guard() {
		g := guard{path: path}
		if within(a.realRoot, path) {
			g.place = "."
		} else if rel, err := filepath.Rel(a.realRoot, path); err == nil && filepath.IsLocal(rel) {
			g.place = filepath.ToSlash(rel)
		}
		for _, stat := range []func(string) (fs.FileInfo, error){os.Stat, os.Lstat} {
			if info, err := stat(path); err == nil {
				g.infos = append(g.infos, info)
			}
		}
		a.guards = append(a.guards, g)
	}
}

// own refuses the agent's own files under whatever name the tree has them: spelled
// otherwise where case does not count, bound there by a mount, or linked. To replace
// a hard link would leave the agent's file alone, and no patch needs to.
func (a *Applier) own(name string, info fs.FileInfo) error {
	for _, g := range a.guards {
		if slices.ContainsFunc(g.infos, func(own fs.FileInfo) bool { return os.SameFile(own, info) }) {
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
