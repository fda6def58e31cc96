package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// spoolMode is for the agent alone: what a process says may be for nobody else.
const spoolMode = 0o600

// openOutputs opens what the process appends its stdout and its stderr to, which
// may be the same file; nil for the agent's own.
func openOutputs(opts Options) (stdout, stderr *os.File, err error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	switch {
	case opts.Output != "":
		if stdout, err = openOutput(opts.Output, flags); err != nil {
			return nil, nil, fmt.Errorf("cannot open target.output: %w", err)
		}
		return stdout, stdout, nil
	case opts.Spool == "":
		return nil, nil, nil
	}
	if stdout, err = os.OpenFile(opts.Spool+".out", flags, spoolMode); err == nil {
		if stderr, err = os.OpenFile(opts.Spool+".err", flags, spoolMode); err == nil {
			return stdout, stderr, nil
		}
		_ = stdout.Close()
	}
	return nil, nil, fmt.Errorf("cannot open the file in state.dir for the process's output: %w", err)
}

// openOutput never waits: what is no file is opened as if it were not to block, as a pipe
// would until it has a reader, and blocks afterwards, as programs expect of their output.
func openOutput(path string, flags int) (*os.File, error) {
	const mode = 0o640
	if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() {
		return os.OpenFile(path, flags, mode)
	}
	fd, err := -1, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	}
	if errors.Is(err, unix.ENXIO) && isPipe(path) {
		return nil, fmt.Errorf("nobody reads the pipe %s; start its reader first", path)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func isPipe(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeNamedPipe
}

// rotateOutput moves the beginning of an output that has grown over max into
// path.1, and what was there into path.2 and so on up to keep. The process holds
// the file open and appends, so it cannot be renamed away. Its beginning is taken
// out of it instead, block by block, which no line that is written meanwhile
// notices (fallocate(2), FALLOC_FL_COLLAPSE_RANGE: ext4, XFS). Where a filesystem
// cannot do that the file is emptied, and lines that are written between the copy
// and that are lost. What Tail reads stays in the file. It returns how many bytes
// it has taken out.
func rotateOutput(path string, limit int64, keep int) (taken int64, err error) {
	if path == "" || limit <= 0 || keep <= 0 {
		return 0, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return 0, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= limit || !info.Mode().IsRegular() {
		return 0, err
	}
	// At least one byte must stay: the range may not reach the end of the file.
	whole, err := wholeBlocks(f, info.Size()-max(1, min(tailBytes, limit/4)))
	if err != nil {
		return 0, err
	}
	for n := keep - 1; n >= 1; n-- {
		if err := os.Rename(numbered(path, n), numbered(path, n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	if err := copyBeginning(f, whole, numbered(path, 1), info.Mode().Perm()); err != nil {
		return 0, err
	}
	if taken, err = takeOut(f, whole); err == nil {
		return taken, nil
	}
	rest, err := os.OpenFile(numbered(path, 1), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 0, err
	}
	defer rest.Close()
	n, err := io.Copy(rest, f)
	if err != nil {
		return 0, err
	}
	return whole + n, f.Truncate(0)
}

// wholeBlocks is size without the last block's beginning.
func wholeBlocks(f *os.File, size int64) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return max(0, size) / int64(st.Bsize) * int64(st.Bsize), nil
}

// takeOut takes the whole blocks of the first size bytes out of f, and returns how
// many bytes that were.
func takeOut(f *os.File, size int64) (int64, error) {
	whole, err := wholeBlocks(f, size)
	if err != nil || whole == 0 {
		return 0, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, whole)
	}
	if err != nil {
		return 0, os.NewSyscallError("fallocate", err)
	}
	return whole, nil
}

func numbered(path string, n int) string { return fmt.Sprintf("%s.%d", path, n) }

// copyBeginning leaves f's offset behind what it has copied.
func copyBeginning(f *os.File, size int64, to string, perm fs.FileMode) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, f, size)
	return errors.Join(err, out.Close())
}
