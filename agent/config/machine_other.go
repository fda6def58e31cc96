//go:build !unix

package config

import (
	"io/fs"
	"syscall"
)

// The signals that this system knows at all.
func signalNumber(name string) syscall.Signal {
	return map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGHUP": syscall.SIGHUP, "SIGKILL": syscall.SIGKILL}[name]
}

// Rights and devices are not modes and numbers here: nothing is found out.
func writable(string) error           { return nil }
func appendable(string) error         { return nil }
func worldWritable(fs.FileInfo) bool  { return false }
func othersWritable(fs.FileInfo) bool { return false }
func isOurs(fs.FileInfo) bool         { return true }
func device(fs.FileInfo) uint64       { return 0 }

// OwnedByUs cannot tell here.
func OwnedByUs(fs.FileInfo) (owner string, own bool) { return "", true }
