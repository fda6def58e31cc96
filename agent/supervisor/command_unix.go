//go:build unix

package supervisor

import (
	"os/exec"
	"os/user"
	"syscall"
)

// ownGroup gives the command a process group, and has all of it killed when the
// command's time is over.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// userEnvironment is what a login as the user would set.
func userEnvironment(name string) map[string]string {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil // the start itself says so
	}
	return map[string]string{"USER": u.Username, "LOGNAME": u.Username, "HOME": u.HomeDir}
}
