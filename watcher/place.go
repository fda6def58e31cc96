package watcher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// Destination says how a drop ended, and so where it is put away.
type Destination struct {
	Applied  bool
	Build    int64
	Code     reason.Code // if not applied
	Sentence string
	Advice   string
	Record   string // a last line, by which the drop is found in log and receipts; none if empty
}

// names are what the drop would like to be called there.
func (d Destination) name(n int, name string) string {
	folder := rejectedName
	if d.Applied {
		folder, name = appliedName, fmt.Sprintf("%d_%s", d.Build, name)
	}
	return path.Join(folder, numbered(n, name))
}

const reasonEnding = ".reason.txt"

// maxName is what a name may have for the reason's file to have room beside it.
const maxName = 255 - len(reasonEnding)

// numbered is the n-th try at a name: -2, -3 ... before its ending, and cut short
// where it has grown too long for a file system.
func numbered(n int, name string) string {
	ending := filepath.Ext(name)
	stem := strings.TrimSuffix(name, ending)
	if n > 1 {
		ending = fmt.Sprintf("-%d%s", n, ending)
	}
	if room := maxName - len(ending); len(stem) > room {
		stem = strings.ToValidUTF8(stem[:room], "")
	}
	return stem + ending
}

// Place puts the drop away with its sidecars, and the reason beside it if it was
// not applied, and returns where it is. It moves the original if it is still the
// one that was claimed, and puts the private copy there if not. The place is on
// record before anything is moved, so that after a crash a second Place goes on
// with the first one. After an error it may be called again.
func (f *Folder) Place(c *Claim, to Destination) (string, error) {
	if c.dir == "" && c.Reject == nil {
		return "", nil // known from the journal only
	}
	c.decided = true
	root, err := openRoot(f.opts.Dir)
	if err == nil {
		p := placer{f: f, root: root, c: c, to: to}
		err = errors.Join(p.openAndPlace(), root.Close())
	}
	if err != nil {
		return "", fmt.Errorf("cannot put %s away: %w", c.Name, err)
	}
	return filepath.Join(f.opts.Dir, filepath.FromSlash(c.place)), nil
}

// openRoot opens the patch folder as what nothing leads out of: others may write to
// it, and so could make a link of any name in it, at any moment.
func openRoot(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	here, err := root.Stat(".")
	if err == nil {
		var named fs.FileInfo
		if named, err = os.Lstat(dir); err == nil && !os.SameFile(here, named) {
			err = fmt.Errorf("%s is a link", dir)
		}
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// A placer works with names relative to the patch folder. Others may change what is in
// it at any moment; so what is moved is moved between two folders that are open.
type placer struct {
	f    *Folder
	root *os.Root
	c    *Claim
	to   Destination

	dir *os.File // the patch folder
	sub *os.File // applied/ or rejected/ in it, and nothing that a link leads to
}

// in is the open folder that a name is in, and the name there.
func (p *placer) in(name string) (*os.File, string) {
	if folder, base := path.Split(name); folder != "" {
		return p.sub, base
	}
	return p.dir, name
}

func (p *placer) openAndPlace() (err error) {
	if p.dir, err = p.root.Open("."); err != nil {
		return err
	}
	defer p.dir.Close()
	folder := path.Dir(p.to.name(1, p.c.Name))
	if err := p.root.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if p.sub, err = openSubfolder(p.dir, folder); err != nil {
		return fmt.Errorf("%w; %s in the patch folder must be a folder of its own, and no link", err, folder)
	}
	defer p.sub.Close()
	return p.place()
}

// caught is a name of the agent's own for the file that is being moved.
func (p *placer) caught() string { return ".placing-" + p.c.ID }

func (p *placer) place() error {
	moved, err := p.catch()
	if err != nil {
		return err
	}
	if !moved {
		if done, err := p.isThere(); err != nil {
			return err
		} else if !done {
			if err := p.copyOut(); err != nil {
				return err
			}
			moved = true
		}
	}
	if moved {
		if err := p.moveIn(); err != nil {
			return err
		}
	}
	if err := p.sidecars(); err != nil {
		return err
	}
	if !p.to.Applied {
		text := fmt.Sprintf("%s\n%s\n%s\n", p.to.Code, p.to.Sentence, p.to.Advice)
		if p.to.Record != "" {
			text += p.to.Record + "\n"
		}
		if err := p.write(p.c.place+reasonEnding, []byte(text)); err != nil {
			return err
		}
	}
	return journal.Synced(errors.Join(syncFile(p.sub), syncFile(p.dir)))
}

// write replaces a file, whatever has its name.
func (p *placer) write(name string, data []byte) error {
	f, err := p.create(p.caught() + ".txt")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return p.replace(p.caught()+".txt", name)
}

// create makes a new file under a name of the agent's own.
func (p *placer) create(name string) (*os.File, error) {
	if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

// rename renames, and fails if the new name is taken.
func (p *placer) rename(from, to string) error {
	fromDir, from := p.in(from)
	toDir, to := p.in(to)
	return renameNew(fromDir, from, toDir, to)
}

// replace renames, also over what has the new name.
func (p *placer) replace(from, to string) error {
	fromDir, from := p.in(from)
	toDir, to := p.in(to)
	return renameOver(fromDir, from, toDir, to)
}

// catch gives the original a name that nobody else uses. A file that was renamed
// over it in the same instant is caught too; it goes back.
func (p *placer) catch() (bool, error) {
	if p.isFree(p.caught()) { // or an earlier Place came this far
		if !p.isOurs(p.c.Name) {
			return false, nil
		}
		if err := p.rename(p.c.Name, p.caught()); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return false, err
		}
	}
	if p.isOurs(p.caught()) || p.isCopy(p.caught()) {
		return true, nil
	}
	for n := 1; ; n++ {
		if err := p.rename(p.caught(), numbered(n, p.c.Name)); !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
}

// isOurs says whether it is the file that was claimed.
func (p *placer) isOurs(name string) bool { return p.look(name, p.c.isOriginal) }

// isCopy says whether it holds what was claimed, as the private copy does.
func (p *placer) isCopy(name string) bool {
	return p.look(name, func(file *os.File, _ identity) bool { return p.c.hasBytes(file) })
}

func (p *placer) look(name string, is func(*os.File, identity) bool) bool {
	dir, name := p.in(name)
	file, id, _, err := openDrop(dir, name)
	if err != nil {
		return false
	}
	defer file.Close()
	return is(file, id)
}

// isThere says whether an earlier Place has already put it where it belongs. A
// drop that was given up has no copy, so if its file is gone that is all.
func (p *placer) isThere() (bool, error) {
	if p.c.place != "" && (p.isOurs(p.c.place) || p.isCopy(p.c.place)) {
		return true, nil
	}
	if p.c.Reject != nil && p.c.place == "" {
		return true, p.choose() // only the reason is left to be told
	}
	return p.c.Reject != nil, nil
}

// copyOut puts the private copy under the agent's own name in the patch folder,
// which may be on another filesystem.
func (p *placer) copyOut() (err error) {
	in, err := p.c.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	partial := p.caught() + ".part"
	out, err := p.create(partial)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, journal.Synced(out.Sync()), out.Close()); err != nil {
		return err
	}
	return p.replace(partial, p.caught())
}

// choose finds a name that is free and puts it on record.
func (p *placer) choose() error {
	for n := 1; ; n++ {
		name := p.to.name(n, p.c.Name)
		if !p.isFree(name) || !p.isFree(name+reasonEnding) {
			continue
		}
		p.c.place = name
		return p.c.Save(true) // a record that is lost now would make a new drop of this one
	}
}

// isFree says whether nothing is there. What cannot be known counts as free: using
// the name then says why.
func (p *placer) isFree(name string) bool { return !exists(p.in(name)) }

// moveIn moves what was caught to its place.
func (p *placer) moveIn() error {
	const tries = 100 // more names are not taken by chance; and it is tried again later
	for range tries {
		if p.c.place == "" {
			if err := p.choose(); err != nil {
				return err
			}
		}
		err := p.rename(p.caught(), p.c.place)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if p.isCopy(p.c.place) { // of one rename, a power loss left both names
			return p.root.Remove(p.caught())
		}
		p.c.place = "" // somebody else took the name
	}
	return fmt.Errorf("somebody takes every name for it in %s", p.sub.Name())
}

// sidecars moves the drop's own sidecars along: those that were claimed, and those
// that came later. What has changed since belongs to a new drop of the same name,
// which may be still to come, and so does what a new drop with the same bytes needs;
// then copies of those that were claimed are put there.
func (p *placer) sidecars() error {
	beside := sidecarReader{dir: p.dir}
	newDrop := !p.isFree(p.c.Name)
	sameAgain := newDrop && p.isCopy(p.c.Name)
	for ending, claimed := range p.c.Sidecars.own() {
		now, _ := beside.one(p.c.Name+ending, maxOwn)
		moves := !newDrop && p.isFree(p.c.place+ending)
		if *claimed != nil {
			moves = !sameAgain && bytes.Equal(now, *claimed)
		}
		if now != nil && moves {
			if err := p.replace(p.c.Name+ending, p.c.place+ending); err != nil {
				return err
			}
			continue
		}
		if *claimed != nil && p.isFree(p.c.place+ending) {
			if err := p.write(p.c.place+ending, *claimed); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncPath makes a file, or the names in a folder, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(journal.Synced(syncFile(f)), f.Close())
}
