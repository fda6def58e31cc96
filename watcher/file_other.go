//go:build !linux

package watcher

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

var errNotRegular = errors.New("it is not a regular file")

// openFolder opens a folder.
func openFolder(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("it is not a folder")}
	}
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// openDrop opens a file of the folder. Between the look and the opening it could
// be replaced by a link; only Linux can exclude that here.
func openDrop(dir *os.File, name string) (*os.File, identity, uint64, error) {
	path := filepath.Join(dir.Name(), name)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, identity{}, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, identity{}, 0, &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, identity{}, 0, err
	}
	id, links, err := identify(file)
	return file, id, links, err
}

// identify tells files apart by size and time: their numbers are not portable.
func identify(file *os.File) (identity, uint64, error) {
	info, err := file.Stat()
	if err != nil {
		return identity{}, 0, err
	}
	return identity{size: info.Size(), mtime: info.ModTime().UnixNano()}, 1, nil
}

// writerOf cannot know: there are no leases here.
func writerOf(*os.File) Writer { return WriterUnknown }

// renameNew renames, and fails if the new name was taken a moment ago.
func renameNew(fromDir *os.File, fromName string, toDir *os.File, toName string) error {
	from, to := filepath.Join(fromDir.Name(), fromName), filepath.Join(toDir.Name(), toName)
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// openSubfolder opens a folder in a folder. Between the look and the opening a link could
// take its place; only Linux can exclude that here.
func openSubfolder(dir *os.File, name string) (*os.File, error) {
	return openFolder(filepath.Join(dir.Name(), name))
}

// exists says whether there is something of that name, and follows no link.
func exists(dir *os.File, name string) bool {
	_, err := os.Lstat(filepath.Join(dir.Name(), name))
	return err == nil
}

// renameOver renames, also over what has the new name.
func renameOver(fromDir *os.File, from string, toDir *os.File, to string) error {
	return os.Rename(filepath.Join(fromDir.Name(), from), filepath.Join(toDir.Name(), to))
}

// occupied takes every file for one without holes.
func occupied(info fs.FileInfo) int64 { return info.Size() }

// syncFile leaves durability to the system where folders cannot be synced.
func syncFile(f *os.File) error {
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return err
	}
	return f.Sync()
}
