package applier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"patchagent/applier/journal"
)

// A Back is a rollback by hand that could be made.
type Back struct {
	*Plan
	Build   int64    // what it leads to
	Warm    bool     // every patch that it goes back over was warm
	Patches []string // their file names, newest first
}

// PutsAside says whether something is in the way that was made by hand.
func (b *Back) PutsAside() bool {
	return slices.ContainsFunc(b.Changes, func(c Change) bool { return c.Aside })
}

// ErrNoBuild is returned by PlanBack where the build that is asked for is not kept.
var ErrNoBuild = errors.New("that build is not kept")

// A Misfit says what in the tree, or among the kept files, is no longer as the
// patches left it.
type Misfit struct {
	Places []string // one sentence each
}

func (m *Misfit) Error() string {
	return fmt.Sprintf("cannot go back: of files that are no longer as the patches left them there are %d: %s; "+
		"with --force they are replaced all the same, and kept aside", len(m.Places), strings.Join(m.Places, "; "))
}

// PlanBack plans the way back from the installed build over the last patch, or as far
// as the build to, from the kept builds. It touches nothing. The error wraps ErrNoBuild, or is a *Misfit,
// which force overrides: what is in the way then goes aside when the rollback is
// done.
func (a *Applier) PlanBack(ctx context.Context, installed int64, to *int64, force bool) (*Back, error) {
	over, err := a.over(installed, to)
	if err != nil {
		return nil, err
	}
	b := backPlanner{
		planner: a.newPlanner(nil),
		places:  map[string]*revert{},
		goes:    map[string]bool{},
	}
	back := &Back{Plan: b.plan, Warm: true}
	for _, build := range over {
		back.Build, back.Warm = build.Build, back.Warm && build.Warm
		back.Patches = append(back.Patches, build.Patch)
		b.plan.undoes = append(b.plan.undoes, build.name)
		for _, s := range build.plan.Steps {
			if err := b.collect(build, s); err != nil {
				return nil, err
			}
		}
	}
	if err := b.conflict(); err != nil {
		return nil, err
	}
	if err := b.steps(ctx); err != nil {
		return nil, err
	}
	if len(b.misfits) > 0 && !force {
		return nil, &Misfit{Places: b.misfits}
	}
	b.order()
	return back, nil
}

// over returns the kept builds from the newest to the one to return to.
func (a *Applier) over(installed int64, to *int64) ([]Build, error) {
	builds, err := a.Builds()
	if len(builds) > 0 && builds[0].By != installed {
		return nil, fmt.Errorf("%w: the kept builds lead back from build %d, and build %d is on record as installed", ErrNoBuild, builds[0].By, installed)
	}
	if len(builds) > 0 && to == nil {
		return builds[:1], nil
	}
	for i, b := range builds {
		if b.Build == *to {
			return builds[:i+1], nil
		}
	}
	if err != nil {
		return nil, err
	}
	if len(builds) == 0 {
		return nil, fmt.Errorf("%w: none is; state.keep (now %d) says how many are, and a rollback uses up those that it goes back over", ErrNoBuild, a.opts.Keep)
	}
	var kept []string
	for _, b := range builds {
		kept = append(kept, fmt.Sprint(b.Build))
	}
	return nil, fmt.Errorf("%w: build %d; these are: %s", ErrNoBuild, *to, strings.Join(slices.Compact(kept), ", "))
}

// A revert is what one place is to become again.
type revert struct {
	have *journal.Object // what the newest patch left there; nil: nothing
	want *journal.Object // what was there before the oldest; nil: nothing
	kept string          // the kept file with that
}

type backPlanner struct {
	planner
	places  map[string]*revert
	goes    map[string]bool // places that are deleted
	misfits []string
}

func (b *backPlanner) misfit(format string, args ...any) {
	b.misfits = append(b.misfits, fmt.Sprintf(format, args...))
}

// collect adds a step of a patch; the steps of newer patches are known already.
func (b *backPlanner) collect(build Build, s journal.Step) error {
	r := b.places[s.Path]
	if r == nil {
		r = &revert{have: s.New}
		if s.Kind == journal.StepMkdir {
			r.have = &journal.Object{Mode: os.ModeDir | 0o755}
		}
		b.places[s.Path] = r
	}
	r.want, r.kept = nil, ""
	if s.Old == nil {
		return nil
	}
	kept := filepath.Join(b.a.opts.State, buildsName, build.name, stageName, s.Stage)
	if s.Kind == journal.StepReplace && !build.plan.Exchange {
		kept += oldSuffix
	}
	is, err := lookKept(kept)
	if err != nil {
		return fmt.Errorf("cannot look at the kept file of %s: %w", s.Path, err)
	}
	if is == nil {
		return nil // the process had removed it before the patch came so far
	}
	if *is != *s.Old {
		b.misfit("the kept file of %s is not the one that was there", s.Path)
	}
	r.want, r.kept = is, kept
	return nil
}

// lookKept is look for a file among the kept ones; nil if there is none.
func lookKept(file string) (*journal.Object, error) {
	info, err := os.Lstat(file)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o := &journal.Object{Mode: info.Mode() & keptMode}
	switch {
	case info.Mode().IsRegular():
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		o.Size = info.Size()
		o.SHA256, err = digest(context.Background(), f)
		return o, err
	case info.Mode().Type() == os.ModeSymlink:
		o.Link, err = os.Readlink(file)
	}
	return o, err
}

// conflict refuses to put steps together of which some have a place as a file and
// others as a folder.
func (b *backPlanner) conflict() error {
	isFile := func(o *journal.Object) bool { return o != nil && !o.Mode.IsDir() }
	for name := range b.places {
		for up := path.Dir(name); up != "."; up = path.Dir(up) {
			if r := b.places[up]; r != nil && (isFile(r.have) || isFile(r.want)) {
				return drift("%s was a file and a folder in the builds between; go back one build at a time", up)
			}
		}
	}
	return nil
}

// steps plans every place: folders that come back first, for what goes into them.
func (b *backPlanner) steps(ctx context.Context) error {
	var names, folders []string
	for name, r := range b.places {
		if r.have != nil && r.have.Mode.IsDir() && r.want == nil {
			folders = append(folders, name) // made by a patch
		} else {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y string) int {
		return strings.Compare(b.class(x)+x, b.class(y)+y)
	})
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := b.revert(name, b.places[name]); err != nil {
			return err
		}
	}
	// Deepest first: a folder is empty when those in it are to go.
	slices.Sort(folders)
	for _, name := range slices.Backward(folders) {
		if err := b.removeFolder(name); err != nil {
			return err
		}
	}
	return nil
}

func (b *backPlanner) class(name string) string {
	if w := b.places[name].want; w != nil && w.Mode.IsDir() {
		return "0"
	}
	return "1"
}

func (b *backPlanner) revert(name string, r *revert) error {
	live, err := b.a.look(name)
	if err != nil {
		return err
	}
	fits := r.have == nil && live == nil || r.have != nil && live != nil && live.Object == *r.have
	if live != nil && r.want != nil && live.Object == *r.want {
		return nil // as it was already
	}
	if sameFolder := live != nil && live.Mode.IsDir() && r.want != nil && r.want.Mode.IsDir(); !fits && !sameFolder {
		b.misfit("%s", misfitText(name, r.have, live))
	}
	if live == nil && r.want == nil {
		return nil
	}
	place, err := b.way(name, live)
	if err != nil {
		return err
	}
	switch {
	case live == nil:
		b.bringBack(name, place, r)
		return nil
	case live.Mode.IsDir() && r.want != nil && r.want.Mode.IsDir():
		b.note("the folder %s has another mode than it had, and keeps it", name)
		return nil
	case r.want == nil:
		b.plan.Counts.Deleted++
		b.goes[name] = true
		b.add(Change{Step: journal.Step{Kind: journal.StepDelete, Path: place, Old: &live.Object, Aside: !fits}})
		return nil
	case live.Mode.IsDir() != r.want.Mode.IsDir() && !b.a.exchange:
		return drift("%s was a folder and is a file now, or the other way round, which cannot be undone in one step on this filesystem", name)
	default:
		b.plan.Counts.Modified++
		b.plan.Counts.Bytes += r.want.Size
		b.add(Change{Step: journal.Step{Kind: journal.StepReplace, Path: place, Old: &live.Object, New: r.want, Aside: !fits}, kept: r.kept})
		return nil
	}
}

func misfitText(name string, have *journal.Object, live *found) string {
	switch {
	case live == nil:
		return name + " is gone"
	case have == nil:
		return name + " has been made again"
	default:
		return name + " has been changed"
	}
}

// way looks at the folders on the way to a place that is to change, as for a patch,
// and returns the place without links: since the kept builds were made, links and
// mounts may have come in between, and the agent may have been given other files.
func (b *backPlanner) way(name string, live *found) (string, error) {
	dir, err := b.folder(path.Dir(name), live == nil)
	if err != nil {
		return "", err
	}
	place := path.Join(dir.real, path.Base(name))
	if err := b.a.ownName(place); err != nil {
		return "", err
	}
	if by, ok := b.taken[place]; ok && by != name {
		return "", drift("%s and %s are the same place: a link in the tree leads from one to the other", by, name)
	}
	b.taken[place] = name
	return place, movable(name, dir, live)
}

// bringBack plans a file or an empty folder where nothing is now.
func (b *backPlanner) bringBack(name, place string, r *revert) {
	b.plan.Counts.Created++
	b.plan.Counts.Bytes += r.want.Size
	b.add(Change{Step: journal.Step{Kind: journal.StepCreate, Path: place, New: r.want}, kept: r.kept})
	if r.want.Mode.IsDir() {
		b.folders[name] = folder{real: place}
	}
}

// removeFolder plans a folder that a patch made away, if nothing else is in it.
func (b *backPlanner) removeFolder(name string) error {
	live, err := b.a.look(name)
	if err != nil || live == nil || !live.Mode.IsDir() {
		return err
	}
	d, err := b.a.openFolder(name)
	if err != nil {
		return drift("cannot look into %s: %w", name, err)
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(128)
		for _, inside := range names {
			if !b.goes[path.Join(name, inside)] {
				b.note("%s was made by a patch and has something else in it (%s), so it stays", name, inside)
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return drift("cannot look into %s: %w", name, err)
		}
	}
	place, err := b.way(name, live)
	if err != nil {
		return err
	}
	b.goes[name] = true
	b.add(Change{Step: journal.Step{Kind: journal.StepDelete, Path: place, Old: &live.Object}})
	return nil
}

// stageKept gives a kept file a second name in the stage, so that it stays what it
// is, with all its attributes, and needs no room. Where that is not allowed, or not
// known to the filesystem, it is copied.
func (a *Applier) stageKept(stage *os.File, c *Change) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot bring the kept file of %s back: %w", c.Path, err)
		}
	}()
	to := filepath.Join(stage.Name(), c.Stage)
	switch {
	case c.New.Mode.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return likeKept(c.kept, to, nil)
	case os.Link(c.kept, to) == nil:
		return nil
	case c.New.Mode.Type() == os.ModeSymlink:
		return os.Symlink(c.New.Link, to)
	default:
		return likeKept(c.kept, to, io.Copy)
	}
}

// likeKept makes a file or a folder like a kept one, with what fill puts into it.
func likeKept(kept, to string, fill func(io.Writer, io.Reader) (int64, error)) error {
	from, err := os.Open(kept)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	flags := os.O_RDONLY
	if fill != nil {
		flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(to, flags, 0o600)
	if err != nil {
		return err
	}
	if fill != nil {
		_, err = fill(f, from)
	}
	if o := ownerOf(info); err == nil && o != nil {
		err = o.give(f)
	}
	if err == nil {
		err = copyAttributes(from, f)
	}
	if err == nil {
		err = setMode(f, info.Mode()&(os.ModePerm|os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
	}
	if err == nil && !syncsFilesystem {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
