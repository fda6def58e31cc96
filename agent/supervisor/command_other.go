//go:build !unix

package supervisor

import (
	"errors"
	"os/exec"
)

// ownGroup does nothing: there are no process groups here, so only the command
// itself is ended.
func ownGroup(*exec.Cmd) {}

// runAs cannot: there is no process to run as a user either.
func runAs(_ *exec.Cmd, name string) error {
	if name != "" {
		return errors.New("a command cannot be run as another user on this system")
	}
	return nil
}

func userEnvironment(string) map[string]string { return nil }
