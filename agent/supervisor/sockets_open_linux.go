package supervisor

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bindTime is more than what an agent that was killed, or a process that was, can
	// keep an address for after its end.
	bindTime  = time.Second
	bindPause = 50 * time.Millisecond
	// socketMode is that of a unix socket for which none is set: as systemd.socket(5)
	// has it, who may connect is for the folder to say.
	socketMode = 0o666
)

// bind makes a new socket and has it listen. The address may be taken for a moment
// still by what has just ended.
func (l *listener) bind(opts Options) error {
	for began := time.Now(); ; time.Sleep(bindPause) {
		var fd int
		var err error
		if l.network == "unix" {
			fd, err = l.bindUnix(opts)
		} else {
			fd, err = bindTCP(l.address)
		}
		if err == nil {
			l.file, err = raw(fd, l.Listen)
			return err
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		if time.Since(began) > bindTime {
			return l.taken(err)
		}
	}
}

// bindTCP returns a blocking socket that listens; as net.Listen has it, with
// SO_REUSEADDR, and for both families where there is no host.
func bindTCP(address string) (int, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // programs look what they are handed
	held, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return -1, err
	}
	defer held.Close()
	if at, ok := held.Addr().(*net.TCPAddr); ok && strings.HasSuffix(address, ":0") {
		// A port that the system has chosen is lost when the socket is shut down; one that
		// was asked for is not.
		_ = held.Close()
		return bindTCP(at.String())
	}
	conn, err := held.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	err = conn.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, dupErr); err != nil {
		return -1, err
	}
	return fd, unix.SetNonblock(fd, false)
}

// bindUnix makes the socket at the path. Nobody can connect before it listens, and
// by then it has its mode and its owner.
func (l *listener) bindUnix(opts Options) (int, error) {
	as, err := ownerOf(l.Socket, opts)
	if err != nil {
		return -1, err
	}
	if err := removeStale(l.address); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: l.address}); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	if l.path, err = os.Lstat(l.address); err == nil {
		if err = as.set(l.address); err == nil {
			err = os.NewSyscallError("listen", unix.Listen(fd, Backlog))
		}
	}
	if err != nil {
		_ = os.Remove(l.address)
		_ = unix.Close(fd)
		return -1, err
	}
	l.as = as
	return fd, nil
}

// removeStale makes room at the path for a socket: what is there may only be one
// that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something else at %s; remove it, or choose another path", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case err == nil, errors.Is(err, unix.EAGAIN): // its queue is full
		return fmt.Errorf("somebody listens on %s%s: %w", path, peerOf(fd), unix.EADDRINUSE)
	default:
		return fmt.Errorf("cannot find out whether somebody listens on %s: %w", path, err)
	}
}

// peerOf says who has made the socket that fd is connected to.
func peerOf(fd int) string {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid <= 0 {
		return ""
	}
	return " (" + processName(int(cred.Pid)) + ")"
}

// owner is what is set of a unix socket.
type owner struct {
	uid, gid int
	mode     fs.FileMode
}

// ownerOf is the user that the process runs as, with that user's own group, if the
// socket says nothing else.
func ownerOf(s Socket, opts Options) (owner, error) {
	o := owner{uid: os.Geteuid(), gid: os.Getegid(), mode: socketMode}
	if s.Mode != 0 {
		o.mode = s.Mode.Perm()
	}
	credential, err := credentialOf(opts.User)
	if err != nil {
		return owner{}, err
	}
	if credential != nil {
		o.uid, o.gid = int(credential.Uid), int(credential.Gid)
	}
	if s.User != "" {
		u, err := user.Lookup(s.User)
		if err != nil {
			return owner{}, err
		}
		var err1, err2 error
		o.uid, err1 = strconv.Atoi(u.Uid)
		o.gid, err2 = strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return owner{}, err
		}
	}
	if s.Group != "" {
		g, err := user.LookupGroup(s.Group)
		if err != nil {
			return owner{}, err
		}
		if o.gid, err = strconv.Atoi(g.Gid); err != nil {
			return owner{}, err
		}
	}
	return o, nil
}

// set follows no link: whoever can write to the folder could otherwise have it set
// of any file.
func (o owner) set(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Nlink != 1 {
		return fmt.Errorf("somebody has put something else at %s", path)
	}
	if int(st.Uid) != o.uid || int(st.Gid) != o.gid {
		if err := unix.Fchownat(fd, "", o.uid, o.gid, unix.AT_EMPTY_PATH); err != nil {
			return &fs.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	// There is no call for this that takes such a descriptor before Linux 6.6.
	return os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), o.mode)
}

// taken names who listens at a TCP address, where that can be seen.
func (l *listener) taken(err error) error {
	if l.network != "tcp" {
		return err
	}
	if at, resolveErr := net.ResolveTCPAddr("tcp", l.address); resolveErr == nil {
		for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			if inode := inodeAt(file, at.Port); inode != "" {
				return fmt.Errorf("%w; %s", err, holderOf(inode))
			}
		}
	}
	return err
}

// inodeAt returns the inode of a socket that listens at the port, of a file as in
// proc_net(5).
func inodeAt(file string, port int) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		const local, state, inode, listens = 1, 3, 9, "0A"
		fields := strings.Fields(lines.Text())
		if len(fields) > inode && fields[state] == listens && strings.HasSuffix(fields[local], fmt.Sprintf(":%04X", port)) {
			return fields[inode]
		}
	}
	return ""
}

// holderOf looks for a process that has the socket.
func holderOf(inode string) string {
	all, _ := processes()
	for pid := range all {
		open, _ := socketsOf(pid)
		for _, s := range open {
			if s.inode == inode {
				return "it is held by " + processName(pid)
			}
		}
	}
	return "it is held by a process that this user cannot look into; ss -ltnp as root names it"
}

func processName(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return cmp.Or(strings.TrimSpace(string(name)), "a process") + ", pid " + strconv.Itoa(pid)
}
