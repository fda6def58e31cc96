package watcher

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// Pruned is what Prune has removed.
type Pruned struct {
	Drops int
	Bytes int64
}

// refused is a drop in rejected/ that the agent has put there.
type refused struct {
	name   string // of the zip, which an operator may have taken away
	placed time.Time
	size   int64 // with its sidecars, as they are on the disk
}

// Prune removes the oldest drops from rejected/ that are more than KeepRejected. Of one
// that does not fit into KeepRejectedSize beside those that came later it leaves the
// reason only; the newest stays in any case. What the agent has not put there stays,
// and is not counted. The reasons go last, when the rest is gone from the disk: so what
// a crash leaves is still known for the agent's own, and goes the next time.
func (f *Folder) Prune() (Pruned, error) {
	done, err := f.prune()
	if err != nil {
		err = fmt.Errorf("cannot remove old rejected patches: %w", err)
	}
	return done, err
}

func (f *Folder) prune() (done Pruned, err error) {
	root, err := openRoot(filepath.Join(f.opts.Dir, rejectedName))
	if errors.Is(err, fs.ErrNotExist) {
		return done, nil
	}
	if err != nil {
		return done, err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return done, err
	}
	defer dir.Close()
	all, err := f.refused(root, dir)
	if err != nil {
		return done, err
	}
	old, heavy := f.beyond(all)
	var gone []string
	var failed error
	for i, r := range slices.Concat(old, heavy) {
		removed, err := r.remove(root)
		if err != nil {
			failed = err // its reason stays, so that it is tried again
			continue
		}
		if i < len(old) {
			gone = append(gone, r.name+reasonEnding)
		} else if removed {
			done.Drops++
		}
		done.Bytes += r.size
	}
	if len(old) == 0 && done.Drops == 0 {
		return done, failed
	}
	if err := journal.Synced(syncFile(dir)); err != nil {
		return Pruned{}, err
	}
	for _, name := range gone {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
			continue
		}
		done.Drops++
	}
	return done, failed
}

// remove removes all of it but its reason, and says whether there was anything.
func (r refused) remove(root *os.Root) (removed bool, err error) {
	names := []string{r.name}
	for ending := range new(Sidecars).own() {
		names = append(names, r.name+ending)
	}
	for _, name := range names {
		if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
			continue // taken away, or not the agent's
		}
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// beyond are those that are too many, and of the others those that are too large.
func (f *Folder) beyond(all []refused) (old, heavy []refused) {
	slices.SortFunc(all, func(x, y refused) int { // the newest first
		return cmp.Or(y.placed.Compare(x.placed), strings.Compare(y.name, x.name))
	})
	if n := f.opts.KeepRejected; n > 0 && len(all) > n {
		all, old = all[:n], all[n:]
	}
	var size int64
	for i, r := range all {
		if i > 0 && f.opts.KeepRejectedSize > 0 && size+r.size > f.opts.KeepRejectedSize {
			heavy = append(heavy, r)
		} else {
			size += r.size
		}
	}
	return old, heavy
}

// refused lists what the agent has put into rejected/.
func (f *Folder) refused(root *os.Root, dir *os.File) ([]refused, error) {
	busy := map[string]bool{} // still being put away
	for _, c := range f.claims {
		busy[filepath.Base(c.place)] = true
	}
	var all []refused
	for {
		entries, err := dir.ReadDir(chunk)
		for _, e := range entries {
			name, is := strings.CutSuffix(e.Name(), reasonEnding)
			if !is || !e.Type().IsRegular() || busy[name] {
				continue
			}
			if r, ok := refusedIn(root, dir, name); ok {
				all = append(all, r)
			}
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// refusedIn looks at one drop there. It is the agent's if the reason beside it begins
// with a code, and it is a regular file.
func refusedIn(root *os.Root, dir *os.File, name string) (refused, bool) {
	file, _, _, err := openDrop(dir, name+reasonEnding)
	if err != nil {
		return refused{}, false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return refused{}, false
	}
	const longest = 64 // of the codes
	line, _ := bufio.NewReader(io.LimitReader(file, longest)).ReadString('\n')
	code, whole := strings.CutSuffix(line, "\n")
	if !whole || reason.Code(code).Outcome() == "" {
		return refused{}, false
	}
	r := refused{name: name, placed: info.ModTime()}
	zip, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || !zip.Mode().IsRegular():
		return refused{}, false
	default:
		r.size = occupied(zip)
	}
	for ending := range new(Sidecars).own() {
		if info, err := root.Lstat(name + ending); err == nil && info.Mode().IsRegular() {
			r.size += occupied(info)
		}
	}
	return r, true
}
