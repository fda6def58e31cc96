//go:build unix

package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// ownGroup gives the command a process group, and has all of it killed when the
// command's time is over.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
}

// killGroup kills a process group that was made here, and no other.
func killGroup(leader int) error {
	if !mayKillGroup(leader, syscall.Getpgrp()) {
		return syscall.ESRCH
	}
	return syscall.Kill(-leader, syscall.SIGKILL)
}

// mayKillGroup says whether a number can be that of a group that was made by this
// program, whose own group is own. For kill(2) -1 is everybody and 0 the caller's
// group; 1 is what the first process is in, and a negative one makes a single process
// of its target.
func mayKillGroup(leader, own int) bool { return leader > 1 && leader != own }

// runAs has the command run as a user, with that user's groups.
func runAs(cmd *exec.Cmd, name string) (err error) {
	cmd.SysProcAttr.Credential, err = credentialOf(name)
	return err
}

// credentialOf is a user with the groups that belong to it; nil if it is the
// agent's own.
func credentialOf(name string) (*syscall.Credential, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("cannot run as %s: %w", name, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot find the groups of %s: %w", name, err)
	}
	numbers := make([]uint32, 0, len(ids)+2)
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot run as %s: %w", name, err)
		}
		numbers = append(numbers, uint32(n))
	}
	if int(numbers[0]) == os.Getuid() {
		return nil, nil
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
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
