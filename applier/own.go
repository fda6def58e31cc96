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

// Guarded are absolute paths that no patch may touch.
type Guarded struct {
	Own   []string // the agent's own files, and folders with all in them
	Links []string // links that lead to them; where they lead to may have other files, too
}

// ownName refuses the agent's own files by their names.
func (a *Applier) ownName(p string) error {
	for _, g := range a.guards {
		if g.place == p || isBelow(g.place, p) || !g.link && isBelow(p, g.place) {
			return reason.Errorf(reason.ProtectedPath, "%s would change %s, which belongs to the agent", p, g.path)
		}
	}
	return nil
}

// isBelow says whether a place is in a folder; all places are in ".".
func isBelow(p, folder string) bool { return folder == "." || strings.HasPrefix(p, folder+"/") }

// A guard is one of the agent's own files, folders or links as it is on the disk.
type guard struct {
	path  string
	link  bool
	place string        // in the tree; "" if it is not there
	infos []fs.FileInfo // of itself, and unless it is a link of what it leads to
}

// identify looks the agent's own files up anew for each plan: an editor that saves
// agent.toml makes another file of it.
func (a *Applier) identify() {
	a.guards = nil
	if a.opts.Guard == nil {
		return
	}
	guarded := a.opts.Guard()
	for _, path := range guarded.Own {
		a.guard(guard{path: path}, os.Lstat, os.Stat)
	}
	for _, path := range guarded.Links {
		a.guard(guard{path: path, link: true}, os.Lstat)
	}
}

func (a *Applier) guard(g guard, stats ...func(string) (fs.FileInfo, error)) {
	if within(a.realRoot, g.path) {
		g.place = "."
	} else if rel, err := filepath.Rel(a.realRoot, g.path); err == nil && filepath.IsLocal(rel) {
		g.place = filepath.ToSlash(rel)
	}
	for _, stat := range stats {
		if info, err := stat(g.path); err == nil {
			g.infos = append(g.infos, info)
		}
	}
	a.guards = append(a.guards, g)
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
