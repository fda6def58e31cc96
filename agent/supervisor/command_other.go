//go:build !unix

package supervisor

import "os/exec"

// ownGroup does nothing: there are no process groups here, so only the command
// itself is ended.
func ownGroup(*exec.Cmd) {}

func userEnvironment(string) map[string]string { return nil }
