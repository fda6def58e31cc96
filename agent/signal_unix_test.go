//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// signalTo is kill(2) for one process. A test that has no number must not hit all that
// there are.
func signalTo(pid int, sig syscall.Signal) error {
	if pid <= 1 {
		return fmt.Errorf("cannot signal pid %d: %w", pid, syscall.ESRCH)
	}
	return syscall.Kill(pid, sig)
}
