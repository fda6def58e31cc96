//go:build unix

package config

import (
	"io/fs"
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
