package applier

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"patchagent/applier/journal"
	"patchagent/manifest"
	"patchagent/manifest/reason"
)

// A Plan is what a package would change in the tree as it was when it was
// looked at. A plan without changes is valid: everything is as the package wants it.
type Plan struct {
	Changes []Change       // folders first, then files, deletions last
	Counts  journal.Counts // what a receipt says
	Notes   []string       // what an operator would want to know, one sentence each

	undoes []string // of a rollback by hand: the kept builds that it uses up
}

// A Change is one step and where its content comes from.
type Change struct {
	journal.Step
	item  manifest.Item // of Replace and Create
	owner *owner        // of the file that is replaced
	kept  string        // instead of item: the kept file that comes back
}

// Plan compares the package with the tree. It touches nothing. Errors are
// *reason.Error: protected-path, then drift; or the payload's, if content has to
// be compared.
func (a *Applier) Plan(ctx context.Context, pkg *manifest.Package) (*Plan, error) {
	p := a.newPlanner(pkg)
	items := pkg.Items()
	for _, it := range items {
		if err := a.protected(it.Path); err != nil {
			return nil, err
		}
	}
	ops := map[string]int{} // a place named twice is deleted and new
	for _, it := range items {
		ops[it.Path]++
	}
	for _, it := range items {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := p.item(ctx, it, ops[it.Path] > 1); err != nil {
			return nil, err
		}
	}
	p.order()
	return p.plan, nil
}

// newPlanner looks up what the checks of each place compare with.
func (a *Applier) newPlanner(pkg *manifest.Package) planner {
	a.identify()
	return planner{a: a, pkg: pkg, plan: &Plan{}, folders: map[string]folder{"": a.top()}, taken: map[string]string{}}
}

type planner struct {
	a       *Applier
	pkg     *manifest.Package
	plan    *Plan
	folders map[string]folder // by the name in the manifest
	taken   map[string]string // real place → the name that took it
	more    int               // notes that were not kept
}

// folder is what the tree has for a folder's name.
type folder struct {
	real   string // without links, relative to the root
	exists bool
	fixed  string // as of marks
}

// maxNotes is how many notes a plan has; those beyond are only counted.
const maxNotes = 1000

func (p *planner) note(format string, args ...any) {
	if len(p.plan.Notes) == maxNotes {
		p.more++
		return
	}
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

func drift(format string, args ...any) error {
	return reason.Errorf(reason.Drift, format, args...)
}

// item adds the change for one item; paired is true for the two of delete + new
// at one place.
func (p *planner) item(ctx context.Context, it manifest.Item, paired bool) error {
	dir, err := p.folder(path.Dir(it.Path), it.Op != manifest.Delete)
	if err != nil {
		return err
	}
	place := path.Join(dir.real, path.Base(it.Path))
	if place != it.Path {
		if err := p.a.protected(place); err != nil {
			return err
		}
	}
	if by, ok := p.taken[place]; ok && by != it.Path {
		return drift("%s and %s are the same place: a link in the tree leads from one to the other", by, it.Path)
	}
	p.taken[place] = it.Path

	var live *found
	if dir.exists {
		if live, err = p.a.look(place); err != nil {
			return err
		}
	}
	if it.Was != "" && (live == nil || live.SHA256 != it.Was) {
		return drift("%s is not the file that the package was made against", it.Path)
	}
	before := len(p.plan.Changes)
	if it.Op == manifest.Delete {
		err = p.delete(it, place, live, paired)
	} else {
		err = p.write(ctx, it, place, live, paired)
	}
	if err == nil && len(p.plan.Changes) > before {
		err = movable(it.Path, dir, live)
	}
	return err
}

// movable refuses a change that chattr(1) forbids even to root. One that would
// change nothing is not asked.
func movable(name string, dir folder, live *found) error {
	switch {
	case live != nil && live.fixed != "":
		return drift("%s is %s, so it can be neither replaced nor deleted; chattr takes that away", name, live.fixed)
	case dir.fixed != "":
		return drift("the folder of %s is %s, so nothing in it can be replaced; chattr takes that away", name, dir.fixed)
	}
	return nil
}

func (p *planner) delete(it manifest.Item, place string, live *found, paired bool) error {
	switch {
	case live == nil:
		p.note("%s was to be deleted and is not there", it.Path)
		return nil
	case live.Mode.IsDir() && paired:
		return drift("%s is a folder in the tree, and a file in the package", it.Path)
	case paired:
		return nil // the new one replaces it
	case live.Mode.IsDir():
		if err := p.a.emptyFolder(place); err != nil {
			return err
		}
	}
	p.plan.Counts.Deleted++
	p.add(Change{Step: journal.Step{Kind: journal.StepDelete, Path: place, Old: &live.Object}})
	return nil
}

func (p *planner) write(ctx context.Context, it manifest.Item, place string, live *found, paired bool) error {
	want := journal.Object{Mode: it.ZipMode.Perm(), Size: it.Size, SHA256: it.SHA256}
	if it.ModeSet {
		want.Mode = it.Mode.Perm()
	}
	if live == nil {
		if it.Op == manifest.Modify {
			p.note("%s was to be modified and is not there yet", it.Path)
		}
		p.plan.Counts.Created++
		p.plan.Counts.Bytes += it.Size
		p.add(Change{Step: journal.Step{Kind: journal.StepCreate, Path: place, New: &want}, item: it})
		return nil
	}
	change := Change{Step: journal.Step{Kind: journal.StepReplace, Path: place, Old: &live.Object, New: &want}, item: it}
	switch {
	case live.Mode.IsDir():
		return drift("%s is a folder in the tree, and a file in the package", it.Path)
	case live.Mode.Type() == fs.ModeSymlink:
		p.note("%s is a symbolic link to %s; it is replaced by a file", it.Path, live.Link)
	case !paired:
		if !it.ModeSet {
			want.Mode = live.Mode
		}
		change.owner = live.owner
	}
	if it.Op == manifest.New && !paired {
		p.note("%s is new in the package and was there already", it.Path)
	}
	if same, err := p.same(ctx, it, live, want); err != nil || same {
		return err
	}
	if paired {
		p.plan.Counts.Deleted++
		p.plan.Counts.Created++
	} else {
		p.plan.Counts.Modified++
	}
	p.plan.Counts.Bytes += it.Size
	if live.Mode.IsRegular() && live.links > 1 {
		p.note("%s has other hard links; they keep the old content", it.Path)
	}
	p.add(change)
	return nil
}

// same says whether the live file is already what the package wants.
func (p *planner) same(ctx context.Context, it manifest.Item, live *found, want journal.Object) (bool, error) {
	if !live.Mode.IsRegular() || live.Size != it.Size || live.Mode != want.Mode {
		return false, nil
	}
	if it.SHA256 != "" {
		return it.SHA256 == live.SHA256, nil
	}
	r, err := p.pkg.Payload(it)
	if err != nil {
		return false, err
	}
	defer r.Close()
	sum, err := digest(ctx, r)
	return sum == live.SHA256, err
}

// folder finds the folder of a name in the tree, following links that stay
// inside. With create, what is missing becomes part of the plan.
func (p *planner) folder(name string, create bool) (folder, error) {
	if name == "." {
		return p.folders[""], nil
	}
	if f, ok := p.folders[name]; ok && (f.exists || !create) {
		return f, nil
	}
	parent, err := p.folder(path.Dir(name), create)
	if err != nil {
		return folder{}, err
	}
	f := folder{real: path.Join(parent.real, path.Base(name))}
	if parent.exists {
		place := f.real
		if f, err = p.a.folderAt(place, name); err != nil {
			return folder{}, err
		}
		if f.exists && f.real != place {
			p.note("%s is a symbolic link to the folder %s of the tree; what is changed is there", name, path.Join(".", f.real))
		}
	}
	if !f.exists && create {
		if err := movable(name, parent, nil); err != nil {
			return folder{}, err
		}
		if _, ok := p.taken[f.real]; !ok {
			p.add(Change{Step: journal.Step{Kind: journal.StepMkdir, Path: f.real}})
			p.taken[f.real] = name
		}
	}
	p.folders[name] = f
	return f, nil
}

func (p *planner) add(c Change) { p.plan.Changes = append(p.plan.Changes, c) }

// The phases of a commit: folders come before what goes into them, and go after it.
const (
	makeFolders = iota
	placeFiles
	deleteFiles
	deleteFolders
)

func phase(c Change) int {
	switch {
	case c.Kind == journal.StepMkdir, c.Kind == journal.StepCreate && c.New.Mode.IsDir():
		return makeFolders
	case c.Kind != journal.StepDelete:
		return placeFiles
	case !c.Old.Mode.IsDir():
		return deleteFiles
	default:
		return deleteFolders
	}
}

// order sorts the steps by phase and keeps those of one folder together; then it
// numbers the stage.
func (p *planner) order() {
	if p.more > 0 {
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("and %d more like these", p.more))
	}
	slices.SortStableFunc(p.plan.Changes, func(x, y Change) int {
		c := cmp.Compare(phase(x), phase(y))
		switch phase(x) {
		case makeFolders:
			return cmp.Or(c, strings.Compare(x.Path, y.Path))
		case deleteFolders:
			return cmp.Or(c, strings.Compare(y.Path, x.Path))
		default:
			return cmp.Or(c, strings.Compare(path.Dir(x.Path), path.Dir(y.Path)), strings.Compare(x.Path, y.Path))
		}
	})
	for i := range p.plan.Changes {
		if c := &p.plan.Changes[i]; c.Kind != journal.StepMkdir {
			c.Stage = fmt.Sprintf("%06d", i)
		}
	}
}
