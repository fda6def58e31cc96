package applier

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"patchagent/applier/journal"
)

const (
	openQuietly = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	openFolder  = os.O_RDONLY | unix.O_DIRECTORY
)

// openAt opens a folder below the tree's, if no symbolic link is on the way to it. The
// places of a plan have none in them, so one that is there came later, and leads to
// what nobody has looked at (openat2(2), since 5.6).
func openAt(root *os.Root, tree *os.File, place string) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(openFolder | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(int(tree.Fd()), place, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(tree.Name(), place)), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM): // of the kernel, or of a sandbox around it
			return root.OpenFile(place, openFolder, 0)
		default:
			return nil, &fs.PathError{Op: "open", Path: place, Err: err}
		}
	}
}

func isQuota(err error) bool { return errors.Is(err, unix.EDQUOT) }

// exchange swaps two names in one step, renameat2(2) with RENAME_EXCHANGE.
func exchange(fromDir *os.File, from string, toDir *os.File, to string) error {
	return renameat(fromDir, from, toDir, to, unix.RENAME_EXCHANGE)
}

// moveNew renames, and fails if the new name is taken.
func moveNew(fromDir *os.File, from string, toDir *os.File, to string) error {
	err := renameat(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	// The filesystem does not know the flag. The folder is the agent's to change, so
	// looking first is enough.
	var st unix.Stat_t
	if err := unix.Fstatat(int(toDir.Fd()), to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	return renameat(fromDir, from, toDir, to, 0)
}

// moveOver renames over what is there.
func moveOver(fromDir *os.File, from string, toDir *os.File, to string) error {
	return renameat(fromDir, from, toDir, to, 0)
}

// swapByLink is exchange for filesystems that cannot: the live file gets a
// second name in the stage, then the staged one is renamed over it.
func swapByLink(stage *os.File, staged string, dir *os.File, live string) error {
	old := staged + oldSuffix
	err := unix.Linkat(int(dir.Fd()), live, int(stage.Fd()), old, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMLINK) {
		err = moveNew(dir, live, stage, old) // no links here: for a moment the name is free
	}
	if err != nil {
		return &os.LinkError{Op: "link", Old: live, New: old, Err: err}
	}
	return moveOver(stage, staged, dir, live)
}

func renameat(fromDir *os.File, from string, toDir *os.File, to string, flags uint) error {
	if err := unix.Renameat2(int(fromDir.Fd()), from, int(toDir.Fd()), to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// syncsFilesystem: one call makes everything durable that was written before it.
const syncsFilesystem = true

// syncFilesystem makes all of f's filesystem durable, syncfs(2): files, names, and
// what other programs have not yet written. With one call for many files the
// filesystem commits its own journal once. Linux reports failed writes there
// since 5.8.
func syncFilesystem(f *os.File) error {
	return journal.Synced(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))))
}

// maxAttributes bounds the extended attributes of one file: the kernel allows
// 64 KiB of names and as much for a value.
const maxAttributes = 64 << 10

// copyAttributes gives a file the extended attributes of another: capabilities,
// security labels, ACLs, the user's own.
func copyAttributes(from, to *os.File) error {
	list := make([]byte, maxAttributes)
	n, err := unix.Flistxattr(int(from.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("listxattr", err)
	}
	value := make([]byte, maxAttributes)
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		size, err := unix.Fgetxattr(int(from.Fd()), string(name), value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), string(name), value[:size], 0)
		}
		if err != nil {
			return &fs.PathError{Op: "copy attribute " + string(name), Path: from.Name(), Err: err}
		}
	}
	return nil
}
