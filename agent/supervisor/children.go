package supervisor

import (
	"os/exec"
	"sync"
)

// ownChildren are those of this program. There is one list as there is one of them
// in the kernel: whoever waits for any child can take the status of another's.
var ownChildren children

// children are the processes that somebody in this program waits for; the Reaper
// leaves them alone. Whatever is started goes through start, and is waited for by
// wait.
type children struct {
	mu      sync.Mutex // held from before a process is there until it is in the list
	awaited map[int]any
}

// start starts cmd.
func (c *children) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		c.add(cmd.Process.Pid, cmd)
	}
	return err
}

// wait waits for what start has started.
func (c *children) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	if cmd.Process != nil {
		c.leave(cmd.Process.Pid, cmd)
	}
	return err
}

// run is start and wait.
func (c *children) run(cmd *exec.Cmd) error {
	if err := c.start(cmd); err != nil {
		return err
	}
	return c.wait(cmd)
}

// await has a process left alone that is or may become a child, until leave. It
// says no if another waits for that one already.
func (c *children) await(pid int, waiter any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.awaited[pid]; twice {
		return false
	}
	c.add(pid, waiter)
	return true
}

func (c *children) add(pid int, waiter any) {
	if c.awaited == nil {
		c.awaited = map[int]any{}
	}
	c.awaited[pid] = waiter
}

// leave ends what start or await began. By now the number may be that of a child
// that another waits for.
func (c *children) leave(pid int, waiter any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.awaited[pid] == waiter {
		delete(c.awaited, pid)
	}
}
