//go:build !linux

package applier

import (
	"errors"
	"io/fs"
	"os"
	"patchagent/applier/journal"
	"path/filepath"
)

const openQuietly, openFolder = os.O_RDONLY, os.O_RDONLY

// openAt opens a folder of the tree; links that do not lead out of it are
// followed.
func openAt(root *os.Root, _ *os.File, place string) (*os.File, error) {
	return root.OpenFile(place, openFolder, 0)
}

func isQuota(error) bool { return false }

var errNoExchange = errors.New("this system cannot exchange two names in one step")

// exchange is not to be had: files are replaced by link and rename.
func exchange(*os.File, string, *os.File, string) error { return errNoExchange }

// moveNew renames, and fails if the new name is taken.
func moveNew(fromDir *os.File, from string, toDir *os.File, to string) error {
	if _, err := os.Lstat(filepath.Join(toDir.Name(), to)); err == nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	return moveOver(fromDir, from, toDir, to)
}

// moveOver renames over what is there.
func moveOver(fromDir *os.File, from string, toDir *os.File, to string) error {
	return os.Rename(filepath.Join(fromDir.Name(), from), filepath.Join(toDir.Name(), to))
}

// swapByLink gives the live file a second name in the stage, then renames the
// staged one over it.
func swapByLink(stage *os.File, staged string, dir *os.File, live string) error {
	if err := os.Link(filepath.Join(dir.Name(), live), filepath.Join(stage.Name(), staged+oldSuffix)); err != nil {
		return err
	}
	return moveOver(stage, staged, dir, live)
}

// syncsFilesystem: files and folders are synced one by one.
const syncsFilesystem = false

func syncFilesystem(f *os.File) error { return journal.Synced(f.Sync()) }

// copyAttributes keeps none: extended attributes are not portable.
func copyAttributes(from, to *os.File) error { return nil }
