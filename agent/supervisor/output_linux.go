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
//
// The copy is made as path.part and is path.0 when it is whole, until those that came
// before have moved along: an attempt that fails, as on a full disk, changes none of
// them. If the agent is killed in between, path.0 is one of them the next time.
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
	if err != nil || whole == 0 {
		return 0, err
	}
	if err := moveAlong(path, keep); err != nil {
		return 0, err
	}
	out, err := copyBeginning(f, whole, path, info.Mode().Perm())
	if err != nil {
		return 0, err
	}
	if taken, err = takeOut(f, whole); err != nil {
		taken, err = empty(f, whole, out)
	}
	if err = errors.Join(err, out.Close()); err != nil && taken == 0 {
		return 0, errors.Join(err, os.Remove(numbered(path, 0)))
	}
	return taken, errors.Join(err, moveAlong(path, keep))
}

// moveAlong makes path.0, if it is there, path.1, and so on up to keep.
func moveAlong(path string, keep int) error {
	if _, err := os.Lstat(numbered(path, 0)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for n := keep - 1; n >= 0; n-- {
		if err := os.Rename(numbered(path, n), numbered(path, n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
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

// copyBeginning makes path.0 of f's first size bytes, open for more, and leaves f's offset
// behind them. After an error nothing of it is left.
func copyBeginning(f *os.File, size int64, path string, perm fs.FileMode) (*os.File, error) {
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a killed agent
		return nil, err
	}
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	// Where there is no room for all of it, the last of it is not taken from others.
	if err = unix.Fallocate(int(out.Fd()), 0, 0, size); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		_, err = io.CopyN(out, f, size)
	}
	if err == nil {
		err = os.Rename(part, numbered(path, 0))
	}
	if err != nil {
		return nil, errors.Join(err, out.Close(), os.Remove(part))
	}
	return out, nil
}

// empty appends what f has from its offset on to the copy of the size bytes before that,
// and empties f. It returns how long f was.
func empty(f *os.File, size int64, out *os.File) (int64, error) {
	n, err := io.Copy(out, f)
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		return 0, err
	}
	return size + n, nil
}
