package supervisor

import (
	"errors"
	"iter"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takeKept gets the sockets that the service manager has kept: to take them from
// elsewhere would leave its copies over, and hide which ones it has made itself.
func (k *sockets) takeKept(opts Options) {
	for _, s := range k.missing(opts) {
		if network, address, err := endpoint(s.Listen); err == nil {
			k.fromSpare(&listener{Socket: s, network: network, address: address})
		}
	}
}

// takeBack gets those that the agent before has held back from the process that it
// has left. What cannot be had is bound anew at the next start.
func (k *sockets) takeBack(c *child, opts Options) {
	var denied error
	for pid := range family(c) {
		if len(k.missing(opts)) == 0 {
			break
		}
		if err := k.takeFrom(pid, c, opts); denied == nil {
			denied = err
		}
	}
	for _, s := range k.missing(opts) {
		if denied == nil {
			denied = errors.New("the process does not listen on it")
		}
		k.log.Warn("the process that was taken over has a socket that cannot be held on to: in the next cold patch connections to it are refused while the process is away",
			"socket", s.Listen, "pid", c.pid, "error", denied, "hint", "run the agent under a service manager that keeps descriptors (FileDescriptorStoreMax=), or let it have CAP_SYS_PTRACE")
	}
	k.backlog()
}

// takeFrom takes them from one process of the tree.
func (k *sockets) takeFrom(pid int, c *child, opts Options) (denied error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if pid != c.pid && !c.owns(pid) { // now it cannot become another any more
		return nil
	}
	return k.copyFrom(pid, fd, opts, "the process")
}

// copyFrom copies the listening sockets of a process, whose pidfd is fd, that are wanted
// and not held (pidfd_getfd(2)). The error is that something could not be looked at.
func (k *sockets) copyFrom(pid, fd int, opts Options, from string) (denied error) {
	open, err := socketsOf(pid)
	if err != nil {
		return err
	}
	for _, s := range open {
		copied, err := unix.PidfdGetfd(fd, s.fd, 0)
		if err != nil {
			denied = os.NewSyscallError("pidfd_getfd", err)
			continue
		}
		if !k.match(copied, k.missing(opts), from) {
			_ = unix.Close(copied)
		}
	}
	return denied
}

// match holds the socket if it listens at an address that is wanted; if not, the
// descriptor is still the caller's.
func (k *sockets) match(fd int, wanted []Socket, from string) bool {
	if !listens(fd) {
		return false
	}
	for _, s := range wanted {
		network, address, err := endpoint(s.Listen)
		l := &listener{Socket: s, network: network, address: address}
		if err == nil && l.isAt(fd) {
			k.take(fd, l, from)
			return true
		}
	}
	return false
}

// take holds a socket that is open, and says whether it does. The descriptor is the
// supervisor's from then on.
func (k *sockets) take(fd int, l *listener, from string) bool {
	f, err := raw(fd, l.Listen)
	if err != nil {
		k.log.Warn("cannot hold a socket that is open", "socket", l.Listen, "error", err)
		return false
	}
	l.file = f
	k.add(l)
	k.log.Info("a held socket was taken over", "socket", l.Listen, "from", from)
	return true
}

// isAt says whether the descriptor is a socket at the listener's address, and notes
// what is at the path of a unix socket, without which it would be of no use.
func (l *listener) isAt(fd int) bool {
	if l.network == "tcp" {
		at := tcpAddress(fd)
		return at != nil && sameAddress(l.address, at)
	}
	at, err := unix.Getsockname(fd)
	name, is := at.(*unix.SockaddrUnix)
	if err != nil || !is || name.Name != l.address {
		return false
	}
	l.path, err = os.Lstat(l.address)
	return err == nil && l.path.Mode().Type() == os.ModeSocket
}

// fromSpare holds a socket that the agent was started with, if one is at the address.
func (k *sockets) fromSpare(l *listener) bool {
	for n, i := range k.spare {
		// One that was shut down is of no use if it is a unix socket; a TCP one listens again.
		kind, err := unix.GetsockoptInt(i.FD, unix.SOL_SOCKET, unix.SO_TYPE)
		usable := err == nil && kind == unix.SOCK_STREAM && (l.network == "tcp" || !wasShut(i.FD))
		if usable && l.isAt(i.FD) {
			l.foreign = !strings.HasPrefix(i.Name, keptPrefix)
			k.spare = slices.Delete(k.spare, n, n+1)
			return k.take(i.FD, l, "the service manager")
		}
	}
	return false
}

// refuse closes a socket that the agent was started with.
func (k *sockets) refuse(i Inherited) {
	_ = unix.Close(i.FD)
	if k.keeper != nil && strings.HasPrefix(i.Name, keptPrefix) {
		_ = k.keeper.Forget(i.Name)
	}
}

// tcpAddress is where a TCP socket is bound; nil if it is none.
func tcpAddress(fd int) *net.TCPAddr {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: at.Addr[:], Port: at.Port}
	case *unix.SockaddrInet6:
		zone := ""
		if at.ZoneId != 0 {
			if i, err := net.InterfaceByIndex(int(at.ZoneId)); err == nil {
				zone = i.Name
			}
		}
		return &net.TCPAddr{IP: at.Addr[:], Port: at.Port, Zone: zone}
	default:
		return nil
	}
}

// family is the process itself, and then what else belongs to it.
func family(c *child) iter.Seq[int] {
	return func(yield func(int) bool) {
		if !yield(c.pid) {
			return
		}
		all, _ := processes()
		for pid := range all {
			if pid != c.pid && c.owns(pid) && !yield(pid) {
				return
			}
		}
	}
}

// openSocket is a descriptor of a process.
type openSocket struct {
	fd    int
	inode string
}

// socketsOf lists the sockets that a process has open, each once.
func socketsOf(pid int) ([]openSocket, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, err := os.ReadDir(dir)
	var all []openSocket
	seen := map[string]bool{}
	for _, e := range entries {
		link, err := os.Readlink(dir + "/" + e.Name())
		inode, is := strings.CutPrefix(link, "socket:[")
		fd, notNumber := strconv.Atoi(e.Name())
		if err != nil || notNumber != nil || !is || seen[inode] {
			continue
		}
		seen[inode] = true
		all = append(all, openSocket{fd, strings.TrimSuffix(inode, "]")})
	}
	return all, err
}
