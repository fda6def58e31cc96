package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// sockets are those that are held for the process. They belong to Run. A socket
// that is held stays the same as long as its address is wanted, whatever process
// comes and goes: clients that find no process wait in its queue.
type sockets struct {
	log    hclog.Logger
	keeper Keeper // may be nil
	held   []*listener
	spare  []Inherited // not matched with an address yet
	capped bool        // it was said that the system allows less than Backlog
}

// listener is one socket that is held.
type listener struct {
	Socket
	network, address string
	file             *os.File    // raw: the Go runtime does not poll it, and it stays as it is set
	path             fs.FileInfo // of a unix socket: what is at its path as long as that is its own
	foreign          bool        // the service manager has made it, and removes it
	as               owner       // what was set of a unix socket
}

func (k *sockets) keepBy(keeper Keeper, left []Inherited) { k.keeper, k.spare = keeper, left }

// find returns the listener at an address that is held.
func (k *sockets) find(listen string) *listener {
	if i := slices.IndexFunc(k.held, func(l *listener) bool { return l.Listen == listen }); i >= 0 {
		return k.held[i]
	}
	return nil
}

// any says whether a socket is held.
func (k *sockets) any() bool { return len(k.held) > 0 }

// complete says whether all that opts want, and nothing else, is held.
func (k *sockets) complete(opts Options) bool {
	return len(k.held) == len(opts.Sockets) && len(k.missing(opts)) == 0
}

func (k *sockets) missing(opts Options) []Socket {
	return slices.DeleteFunc(slices.Clone(opts.Sockets), func(s Socket) bool { return k.find(s.Listen) != nil })
}

// forStart has every socket of opts open and in order, and no other, for a process
// that starts now.
func (k *sockets) forStart(opts Options) error {
	for _, l := range slices.Clone(k.held) {
		if !slices.ContainsFunc(opts.Sockets, func(s Socket) bool { return s.Listen == l.Listen }) {
			k.drop(l, true)
		}
	}
	k.tend(opts)
	for _, s := range opts.Sockets {
		l := k.find(s.Listen)
		if l == nil {
			var err error
			if l, err = k.open(s, opts); err != nil {
				return fmt.Errorf("cannot open target.socket %s: %w", s.Listen, err)
			}
		}
		l.Socket = s
		if err := l.arrange(opts); err != nil {
			return fmt.Errorf("cannot set up target.socket %s: %w", s.Listen, err)
		}
	}
	for _, i := range k.spare {
		k.log.Warn("the agent was given a socket that no target.socket names; it is closed", "name", i.Name)
		k.refuse(i)
	}
	k.spare = nil
	return nil
}

// arrange makes what may have changed as it is configured. How a socket is handed
// over is a matter of what all who have it share, so the last process may have
// changed it.
func (l *listener) arrange(opts Options) error {
	if err := unix.SetNonblock(l.fd(), l.Nonblocking); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if l.network != "unix" || l.foreign {
		return nil
	}
	as, err := ownerOf(l.Socket, opts)
	if err != nil || as == l.as {
		return err
	}
	l.as = as
	return as.set(l.address)
}

// open makes the socket, or finds it among what the agent was given.
func (k *sockets) open(s Socket, opts Options) (*listener, error) {
	network, address, err := endpoint(s.Listen)
	if err != nil {
		return nil, err
	}
	l := &listener{Socket: s, network: network, address: address}
	if k.fromSpare(l) {
		return l, nil
	}
	if err := l.bind(opts); err != nil {
		return nil, err
	}
	k.add(l)
	return l, nil
}

// add holds a socket from now on.
func (k *sockets) add(l *listener) {
	k.held = append(k.held, l)
	k.listen(l)
	k.noteCap()
	if k.keeper != nil && !l.foreign {
		if err := k.keeper.Keep(l.keptName(), l.file); err != nil {
			k.log.Warn("the service manager cannot keep a held socket; should the agent be killed, the next one may not get it back", "socket", l.Listen, "error", err)
		}
	}
}

// drop closes a socket that is held. What waits in its queue is told so by the
// system, unless a process still has it.
func (k *sockets) drop(l *listener, unlink bool) {
	k.held = slices.DeleteFunc(k.held, func(h *listener) bool { return h == l })
	if unlink && l.network == "unix" && !l.foreign && l.isAtPath() {
		_ = os.Remove(l.address)
	}
	_ = l.file.Close()
	if unlink && k.keeper != nil && !l.foreign {
		_ = k.keeper.Forget(l.keptName())
	}
}

// close ends the holding. In an orderly end unix sockets are removed. TCP sockets
// that a service manager has stay with it: should it start the agent again, clients
// have waited.
func (k *sockets) close(orderly bool) {
	for _, l := range slices.Clone(k.held) {
		k.drop(l, orderly && l.network == "unix")
	}
	for _, i := range k.spare {
		_ = unix.Close(i.FD)
	}
	k.spare = nil
}

// tend repairs what the process that has ended has done to its sockets: they are
// shared, and one that it shut down is so for all. It must not run.
func (k *sockets) tend(opts Options) {
	for _, l := range slices.Clone(k.held) {
		if l.accepts() && (l.network != "unix" || l.foreign || l.isAtPath()) {
			k.listen(l)
			continue
		}
		// A TCP socket listens again; a unix one that was shut down never does.
		port := l.port()
		if l.network == "tcp" && k.listen(l) && l.accepts() && l.port() == port {
			k.log.Warn("the process had shut down a socket that is held for it; it listens again", "socket", l.Listen)
			k.rekeep(l)
			continue
		}
		k.drop(l, true)
		if _, err := k.open(l.Socket, opts); err != nil {
			k.log.Warn("a held socket is of no use any more, and cannot be made anew yet", "socket", l.Listen, "error", err)
			continue
		}
		k.log.Warn("a held socket was of no use any more, and was made anew", "socket", l.Listen)
	}
}

// rekeep hands a socket over again: a service manager drops one that was shut down.
func (k *sockets) rekeep(l *listener) {
	if k.keeper != nil && !l.foreign {
		_ = k.keeper.Keep(l.keptName(), l.file)
	}
}

// backlog gives every socket its whole queue back: a process that listens on what it
// was handed makes that as short as it is used to.
func (k *sockets) backlog() {
	for _, l := range k.held {
		if l.accepts() {
			k.listen(l)
		}
	}
}

func (k *sockets) listen(l *listener) bool {
	err := unix.Listen(l.fd(), Backlog)
	if err != nil {
		k.log.Debug("cannot listen on a held socket", "socket", l.Listen, "error", err)
	}
	return err == nil
}

// noteCap says once that the queue is shorter than it should be.
func (k *sockets) noteCap() {
	const file = "/proc/sys/net/core/somaxconn"
	data, err := os.ReadFile(file)
	if err != nil || k.capped {
		return
	}
	if most, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && most < Backlog {
		k.capped = true
		k.log.Warn("fewer connections can wait during a cold patch than should; raise net.core.somaxconn", "limit", most, "wanted", Backlog)
	}
}

// files are the descriptors of the next process, with their names, in the order of
// opts. All of them are held.
func (k *sockets) files(opts Options) (files []*os.File, names []string) {
	for _, s := range opts.Sockets {
		if l := k.find(s.Listen); l != nil {
			files, names = append(files, l.file), append(names, s.handedName())
		}
	}
	return files, names
}

func (l *listener) fd() int { return int(l.file.Fd()) } // it is not polled, so this changes nothing

// accepts says whether clients can connect. A unix socket that was shut down says
// that it listens all the same.
func (l *listener) accepts() bool {
	return listens(l.fd()) && !wasShut(l.fd())
}

func listens(fd int) bool {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && on != 0
}

func wasShut(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}

func (l *listener) port() int {
	if at := tcpAddress(l.fd()); at != nil {
		return at.Port
	}
	return 0
}

// isAtPath says whether what is at the path of a unix socket is still its own.
func (l *listener) isAtPath() bool {
	now, err := os.Lstat(l.address)
	return err == nil && l.path != nil && os.SameFile(now, l.path)
}

// raw returns the descriptor as a file that the Go runtime does not poll: it would be
// woken by every connection, and make the socket blocking, for the process too, when
// that is handed over. After an error the descriptor is closed.
func raw(fd int, name string) (*os.File, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(null), name) // asks only now whether to poll
	err = unix.Dup3(fd, null, unix.O_CLOEXEC)
	_ = unix.Close(fd)
	if err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("dup3", err)
	}
	return f, nil
}
