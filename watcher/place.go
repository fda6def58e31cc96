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
	if n > 1 {
		ending := filepath.Ext(name)
		name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(name, ending), n, ending)
	}
	return filepath.Join(folder, name)
}

const reasonEnding = ".reason.txt"

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
	if _, err := os.Lstat(p.caught()); err == nil {
		return true, nil // an earlier Place came this far
	}
	if !p.isOurs(p.in(p.c.Name)) {
		return false, nil
	}
	if err := renameNew(p.in(p.c.Name), p.caught()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	if p.isOurs(p.caught()) {
		return true, nil
	}
	for n := 1; ; n++ {
		name := p.c.Name
		if n > 1 {
			ending := filepath.Ext(name)
			name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(name, ending), n, ending)
		}
		if err := renameNew(p.caught(), p.in(name)); !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
}

func (p *placer) isOurs(path string) bool {
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
	return p.c.isOriginal(file, id)
}

// isThere says whether an earlier Place has already put it where it belongs. A
// drop that was given up has no copy, so if its file is gone that is all.
func (p *placer) isThere() (bool, error) {
	if p.c.place != "" && p.isOurs(p.in(p.c.place)) {
		return true, nil
	}
	if p.c.place != "" && p.c.Reject == nil {
		file, err := os.Open(p.in(p.c.place))
		if err == nil {
			defer file.Close()
			sum, err := sumOf(file)
			return err == nil && sum == p.c.SHA256, err
		}
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
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(partial, p.caught())
}

// choose finds a name that is free and puts it on record.
func (p *placer) choose() error {
	for n := 1; ; n++ {
		name := p.to.name(n, p.c.Name)
		if isFree(p.in(name)) && isFree(p.in(name)+reasonEnding) {
			p.c.place = name
			return p.c.Save(false)
		}
	}
}

func isFree(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
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
		p.c.place = "" // somebody else took the name
	}
}

// sidecars moves the drop's own sidecars along, unless they have changed, and so
// belong to a new drop of the same name; then copies of those that were claimed are
// put there.
func (p *placer) sidecars(path string) error {
	newDrop := !isFree(p.in(p.c.Name))
	for ending, claimed := range p.c.Sidecars.own() {
		beside := p.in(p.c.Name + ending)
		now, err := os.ReadFile(beside)
		if err == nil && (!newDrop || bytes.Equal(now, *claimed)) {
			if err := os.Rename(beside, path+ending); err != nil {
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
	return errors.Join(syncFile(f), f.Close())
}
