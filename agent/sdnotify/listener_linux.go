package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// beside is added to a socket's name while it is made.
const beside = ".new"

// MaxPath is how long the path of a socket may be: sun_path has 108 bytes with the NUL
// at its end (unix(7)), and a few are for its name while it is made.
const MaxPath = 107 - len(beside)

// Listener is a socket that services say things to. Its methods may be called from any
// goroutine.
type Listener struct {
	path string
	conn *net.UnixConn
	self *net.UnixConn // sends to conn, whatever becomes of the path
	info fs.FileInfo   // of the file

	flushing sync.Mutex
}

// Listen makes the socket. path is absolute; a socket that is there, which a killed
// manager has left, is replaced at once, and anything else is an error. mode says who
// may send (those who may write), whatever the umask is.
func Listen(path string, mode fs.FileMode) (*Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("cannot listen at %s: the path is not absolute", path)
	}
	if len(path) > MaxPath {
		return nil, fmt.Errorf("cannot listen at %s: the path is longer than the %d bytes that a socket's may have", path, MaxPath)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("cannot listen at %s: it is there, and no socket", path)
	}
	if err := os.Remove(path + beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l := &Listener{path: path}
	if err := l.open(mode); err != nil {
		_ = l.Leave()
		_ = os.Remove(path + beside)
		return nil, fmt.Errorf("cannot listen at %s: %w", path, err)
	}
	return l, nil
}

func (l *Listener) open(mode fs.FileMode) error {
	// Before it has a name, so that nobody sends without credentials.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		control := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }
		return errors.Join(raw.Control(control), os.NewSyscallError("setsockopt", err))
	}}
	conn, err := config.ListenPacket(context.Background(), "unixgram", l.path+beside)
	if err != nil {
		return err
	}
	l.conn = conn.(*net.UnixConn)
	if l.self, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: l.path + beside, Net: "unixgram"}); err != nil {
		return err
	}
	if err = os.Chmod(l.path+beside, mode); err != nil {
		return err
	}
	if l.info, err = os.Lstat(l.path + beside); err != nil {
		return err
	}
	return os.Rename(l.path+beside, l.path)
}

// Path is what NOTIFY_SOCKET is to be.
func (l *Listener) Path() string { return l.path }

// Close ends Serve and removes the socket, if it is still this one.
func (l *Listener) Close() error {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
		_ = os.Remove(l.path)
	}
	return l.Leave()
}

// Leave ends Serve and leaves the socket's file for the next manager to replace.
func (l *Listener) Leave() error {
	var err error
	for _, conn := range []*net.UnixConn{l.conn, l.self} {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
	}
	return err
}

// pause is between two attempts to read that fail, as they do when memory is short.
const pause = 10 * time.Millisecond

// Serve reads until Close or Leave, one message after the other. handle gets each that
// is sound, and must not wait for anything: while it runs nothing is read, and senders
// block. What it does not take of the descriptors is closed. refused is told of each
// that is not, and why: cut off, without credentials, or not to be parsed; its
// descriptors are closed.
func (l *Listener) Serve(handle func(*Received), refused func(Sender, error)) {
	buf := make([]byte, MaxMessage+1)
	const number = 4 // bytes of a descriptor
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(MaxFDs*number))
	for {
		n, oobn, flags, _, err := l.conn.ReadMsgUnix(buf, oob) // descriptors are close-on-exec
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			refused(Sender{}, err)
			time.Sleep(pause)
			continue
		}
		serve(buf[:n], oob[:oobn], flags, handle, refused)
	}
}

func serve(data, control []byte, flags int, handle func(*Received), refused func(Sender, error)) {
	r := &Received{At: time.Now()}
	defer func() {
		for _, fd := range r.fds {
			_ = unix.Close(fd)
		}
	}()
	known, err := r.control(control)
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0:
		err = errors.New("what came along with the message is cut off: too many descriptors, for it or for this process")
	case !known:
		err = errors.New("the message says not who has sent it")
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("the message is longer than %d bytes", MaxMessage)
	default:
		r.Message, err = Parse(data)
	}
	switch {
	case err != nil:
		refused(r.Sender, err)
	case !r.Barrier: // a barrier is over by now: everything before it is handled
		handle(r)
	}
}

// control reads what came along, and says whether the sender is known. Whatever
// descriptors there were are in r, even if it fails.
func (r *Received) control(data []byte) (known bool, err error) {
	messages, err := unix.ParseSocketControlMessage(data)
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			fds, rightsErr := unix.ParseUnixRights(&m)
			r.fds = append(r.fds, fds...)
			err = errors.Join(err, rightsErr)
		case unix.SCM_CREDENTIALS:
			c, credErr := unix.ParseUnixCredentials(&m)
			if credErr == nil {
				r.Sender, known = Sender{PID: int(c.Pid), UID: int(c.Uid), GID: int(c.Gid)}, true
			}
			err = errors.Join(err, credErr)
		}
	}
	return known, err
}

// Flush returns when every message is handled that was sent before it was called. The
// error is that ctx was done first, or that nobody serves any more.
func (l *Listener) Flush(ctx context.Context) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		_ = r.SetReadDeadline(time.Unix(1, 0))
		_ = l.self.SetWriteDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-over
			_ = l.self.SetWriteDeadline(time.Time{})
		}
	}()
	if err = sendBarrier(l.self, w); err == nil {
		_ = w.Close()
		if _, err = r.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func sendBarrier(conn *net.UnixConn, w *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(w.Fd()))
	waitErr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte("BARRIER=1"), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return waitErr
	}
	return os.NewSyscallError("sendmsg", err)
}

// Now is the time that MONOTONIC_USEC is of: CLOCK_MONOTONIC, in whole microseconds.
func Now() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0 // it cannot fail; and what is told is then no earlier than this
	}
	return time.Duration(now.Nano()).Truncate(time.Microsecond)
}
