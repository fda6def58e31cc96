package watcher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
}

// names are what the drop would like to be called there.
func (d Destination) name(n int, name string) string {
	folder := rejectedName
	if d.Applied {
		folder, name = appliedName, fmt.Sprintf("%d_%s", d.Build, name)
	}
	return filepath.Join(folder, numbered(n, name))
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
	p := placer{f: f, c: c, to: to}
	path, err := p.place()
	if err != nil {
		return "", fmt.Errorf("cannot put %s away: %w", c.Name, err)
	}
	return path, nil
}

type placer struct {
	f  *Folder
	c  *Claim
	to Destination
}

func (p *placer) in(name string) string { return filepath.Join(p.f.opts.Dir, name) }

// caught is a name of the agent's own for the file that is being moved.
func (p *placer) caught() string { return p.in(".placing-" + p.c.ID) }

func (p *placer) place() (string, error) {
	if err := os.MkdirAll(filepath.Dir(p.in(p.to.name(1, p.c.Name))), 0o755); err != nil {
		return "", err
	}
	moved, err := p.catch()
	if err != nil {
		return "", err
	}
	if !moved {
		if done, err := p.isThere(); err != nil {
			return "", err
		} else if !done {
			if err := p.copyOut(); err != nil {
				return "", err
			}
			moved = true
		}
	}
	if moved {
		if err := p.moveIn(); err != nil {
			return "", err
		}
	}
	path := p.in(p.c.place)
	if err := p.sidecars(path); err != nil {
		return "", err
	}
	if !p.to.Applied {
		text := fmt.Sprintf("%s\n%s\n%s\n", p.to.Code, p.to.Sentence, p.to.Advice)
		if err := os.WriteFile(path+reasonEnding, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return path, errors.Join(syncPath(filepath.Dir(path)), syncPath(p.f.opts.Dir))
}

// catch gives the original a name that nobody else uses. A file that was renamed
// over it in the same instant is caught too; it goes back.
func (p *placer) catch() (bool, error) {
	if isFree(p.caught()) { // or an earlier Place came this far
		if !p.isOurs(p.in(p.c.Name)) {
			return false, nil
		}
		if err := renameNew(p.in(p.c.Name), p.caught()); err != nil {
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
		if err := renameNew(p.caught(), p.in(numbered(n, p.c.Name))); !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
}

// isOurs says whether it is the file that was claimed.
func (p *placer) isOurs(path string) bool { return p.look(path, p.c.isOriginal) }

// isCopy says whether it holds what was claimed, as the private copy does.
func (p *placer) isCopy(path string) bool {
	return p.look(path, func(file *os.File, _ identity) bool { return p.c.hasBytes(file) })
}

func (p *placer) look(path string, is func(*os.File, identity) bool) bool {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer dir.Close()
	file, id, _, err := openDrop(dir, filepath.Base(path))
	if err != nil {
		return false
	}
	defer file.Close()
	return is(file, id)
}

// isThere says whether an earlier Place has already put it where it belongs. A
// drop that was given up has no copy, so if its file is gone that is all.
func (p *placer) isThere() (bool, error) {
	if p.c.place != "" && (p.isOurs(p.in(p.c.place)) || p.isCopy(p.in(p.c.place))) {
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
	out, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, journal.Synced(out.Sync()), out.Close()); err != nil {
		return err
	}
	return os.Rename(partial, p.caught())
}

// choose finds a name that is free and puts it on record.
func (p *placer) choose() error {
	for n := 1; ; n++ {
		name := p.to.name(n, p.c.Name)
		if !isFree(p.in(name)) || !isFree(p.in(name)+reasonEnding) {
			continue
		}
		p.c.place = name
		return p.c.Save(true) // a record that is lost now would make a new drop of this one
	}
}

// isFree says whether nothing is there. What cannot be known counts as free: using
// the name then says why.
func isFree(path string) bool {
	_, err := os.Lstat(path)
	return err != nil
}

// moveIn moves what was caught to its place.
func (p *placer) moveIn() error {
	for {
		if p.c.place == "" {
			if err := p.choose(); err != nil {
				return err
			}
		}
		err := renameNew(p.caught(), p.in(p.c.place))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if p.isCopy(p.in(p.c.place)) { // of one rename, a power loss left both names
			return os.Remove(p.caught())
		}
		p.c.place = "" // somebody else took the name
	}
}

// sidecars moves the drop's own sidecars along: those that were claimed, and those
// that came later. What has changed since belongs to a new drop of the same name,
// which may be still to come, and so does what a new drop with the same bytes needs;
// then copies of those that were claimed are put there.
func (p *placer) sidecars(path string) error {
	dir, err := openFolder(p.f.opts.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	beside := sidecarReader{dir: dir}
	newDrop := !isFree(p.in(p.c.Name))
	sameAgain := newDrop && p.isCopy(p.in(p.c.Name))
	for ending, claimed := range p.c.Sidecars.own() {
		now, _ := beside.one(p.c.Name + ending)
		moves := !newDrop && isFree(path+ending)
		if *claimed != nil {
			moves = !sameAgain && bytes.Equal(now, *claimed)
		}
		if now != nil && moves {
			if err := os.Rename(p.in(p.c.Name+ending), path+ending); err != nil {
				return err
			}
			continue
		}
		if *claimed != nil && isFree(path+ending) {
			if err := os.WriteFile(path+ending, *claimed, 0o644); err != nil {
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
