//go:build unix

package applier

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// owner is whose a file is.
type owner struct{ uid, gid int }

func ownerOf(info fs.FileInfo) *owner {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return &owner{uid: int(st.Uid), gid: int(st.Gid)}
}

// give makes the file o's, if it is not.
func (o *owner) give(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if now := ownerOf(info); now != nil && *now == *o {
		return nil
	}
	if err := unix.Fchown(int(f.Fd()), o.uid, o.gid); err != nil {
		return fmt.Errorf("it belongs to user %d and group %d, and the agent may not give them a file (%w): "+
			"give it to the agent's user, or have root run the agent, with target.user for the process", o.uid, o.gid, err)
	}
	return nil
}

func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}

// device tells filesystems apart.
func device(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}

// inode is the number of a file on its filesystem.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// notDir: something on the way to a file is a file itself.
func notDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

func notEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}
