package watcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var errNotRegular = errors.New("it is not a regular file")

// openFolder opens the patch folder, and not one that a link leads to or that everybody
// can write to.
func openFolder(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("it is a link, or no folder")}
	}
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err == nil && info.Mode().Perm()&0o002 != 0 {
		err = fmt.Errorf("everybody on this machine can write to %s; mend it with: chmod o-w %s", path, path)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// openDrop opens a file of the folder: no link, nothing that could block.
func openDrop(dir *os.File, name string) (*os.File, identity, uint64, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			err = errNotRegular
		}
		return nil, identity{}, 0, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	id, links, err := identify(file)
	if err != nil {
		_ = file.Close()
		return nil, identity{}, 0, err
	}
	return file, id, links, nil
}

// identify says which file it is, and how many names it has.
func identify(file *os.File) (identity, uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return identity{}, 0, &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return identity{}, 0, &fs.PathError{Op: "open", Path: file.Name(), Err: errNotRegular}
	}
	return identity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}, uint64(st.Nlink), nil
}

// writerOf asks for a read lease, which the kernel grants only where nobody has
// the file open for writing (fcntl(2), F_SETLEASE), and gives it back at once:
// while it is held, a writer's open waits.
func writerOf(file *os.File) Writer {
	_, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case err == nil:
		_, _ = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return WriterNone
	case errors.Is(err, unix.EAGAIN):
		return WriterOpen
	default:
		return WriterUnknown
	}
}

// renameNew renames, and fails if the new name is taken.
func renameNew(fromDir *os.File, from string, toDir *os.File, to string) error {
	err := unix.Renameat2(int(fromDir.Fd()), from, int(toDir.Fd()), to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) {
		// The filesystem does not know the flag: a second name first, then the first away.
		if err = unix.Linkat(int(fromDir.Fd()), from, int(toDir.Fd()), to, 0); err == nil {
			err = unix.Unlinkat(int(fromDir.Fd()), from, 0)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// openSubfolder opens a folder in a folder, and not one that a link leads to.
func openSubfolder(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// exists says whether there is something of that name, and follows no link.
func exists(dir *os.File, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// renameOver renames, also over what has the new name.
func renameOver(fromDir *os.File, from string, toDir *os.File, to string) error {
	if err := unix.Renameat(int(fromDir.Fd()), from, int(toDir.Fd()), to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// occupied is what a file takes of the disk, in bytes: a sparse one takes less than it
// is long.
func occupied(info fs.FileInfo) int64 {
	const block = 512 // stat(2), st_blocks
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return min(info.Size(), st.Blocks*block)
	}
	return info.Size()
}

func syncFile(f *os.File) error { return f.Sync() }
