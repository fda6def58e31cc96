//go:build unix

package config

import (
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func signalNumber(name string) syscall.Signal { return unix.SignalNum(name) }

func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

func appendable(file string) error { return unix.Access(file, unix.W_OK) }

func worldWritable(info fs.FileInfo) bool { return info.Mode().Perm()&0o002 != 0 }

func othersWritable(info fs.FileInfo) bool { return info.Mode().Perm()&0o022 != 0 }

func device(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}

// isOurs says whether a file is this user's or root's, and looks up no name for that.
func isOurs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0 || int(st.Uid) == os.Geteuid()
}

// OwnedByUs says whether a folder is this user's, and whose it is.
func OwnedByUs(info fs.FileInfo) (owner string, own bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() {
		return "", true
	}
	owner = strconv.Itoa(int(st.Uid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	return owner, false
}
