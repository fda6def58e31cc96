package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"patchagent/agent/supervisor"
)

// A manager is the service manager that has started the agent, as far as it speaks
// the protocol of sd_notify(3) and sd_listen_fds(3). It is told how the agent is, and
// keeps the sockets that the agent holds for its process. The zero value is none, to
// which nothing is told.
type manager struct {
	socket string                 // NOTIFY_SOCKET
	left   []supervisor.Inherited // what it has handed over
	status string                 // as it was last told
}

// managerVariables are what a service manager tells a service by. They are for the
// agent, and for nothing that it starts.
var managerVariables = []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC"}

// newManager finds it in the environment, once: the variables are removed.
func newManager() manager {
	m := manager{socket: os.Getenv("NOTIFY_SOCKET")}
	// The variables may be meant for a program that this one was started by.
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		m.left = handedOver(os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"))
	}
	for _, name := range managerVariables {
		_ = os.Unsetenv(name)
	}
	return m
}

// maxHandedOver bounds what is believed of LISTEN_FDS. systemd stores at most as many
// descriptors as FileDescriptorStoreMax= says, and no unit has thousands.
const maxHandedOver = 4096

// handedOver are the descriptors that sd_listen_fds_with_names(3) would return.
func handedOver(count, names string) (all []supervisor.Inherited) {
	const first = 3
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxHandedOver {
		return nil
	}
	name := strings.Split(names, ":")
	for i := range n {
		one := supervisor.Inherited{FD: first + i}
		if i < len(name) {
			one.Name = name[i]
		}
		if isOwn(one.FD) {
			all = append(all, one)
		}
	}
	return all
}

// keeper is who keeps held sockets; nil without a manager.
func (m *manager) keeper() supervisor.Keeper {
	if m.socket == "" {
		return nil
	}
	return m
}

// Keep stores a socket with the manager, in place of one of that name. It is not to
// look at it: one that is shut down is mended, and not forgotten.
func (m *manager) Keep(name string, socket *os.File) error {
	if err := m.Forget(name); err != nil {
		return err
	}
	return m.tell(socket, "FDSTORE=1", "FDNAME="+name, "FDPOLL=0")
}

// Forget has the manager close what it has stored under the name.
func (m *manager) Forget(name string) error { return m.tell(nil, "FDSTOREREMOVE=1", "FDNAME="+name) }

// recoveryTime is how long the manager is asked to wait for an agent that goes on
// with what an earlier one has left: a process that gets ready, or does not and is
// stopped, files that are put back. Its own limit would end that in the middle.
const recoveryTime = 10 * time.Minute

// starting, ready and stopping tell where the agent is. That it cannot be told is no
// reason not to work.
func (m *manager) starting() {
	_ = m.tell(nil, "STATUS=going on where the last agent ended", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", recoveryTime.Microseconds()))
}

func (m *manager) ready() error { return m.tell(nil, "READY=1") }
func (m *manager) stopping()    { _ = m.tell(nil, "STOPPING=1", "STATUS=stopping") }

// note has the build as the unit's status line.
func (m *manager) note(build int64) {
	if status := fmt.Sprintf("STATUS=watching; build %d is installed", build); status != m.status {
		m.status = status
		_ = m.tell(nil, status)
	}
}

func (m *manager) tell(file *os.File, lines ...string) error {
	if m.socket == "" {
		return nil
	}
	return send(m.socket, strings.Join(lines, "\n"), file)
}
