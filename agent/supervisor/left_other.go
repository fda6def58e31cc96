//go:build !linux

package supervisor

// Left has nothing to look for: no process is supervised here.
func Left(string) (pid int, runs bool, err error) { return 0, false, nil }
