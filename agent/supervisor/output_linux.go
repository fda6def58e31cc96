package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openOutput opens the file that the process appends to; nil for none.
func openOutput(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot open target.output: %w", err)
	}
	return f, nil
}

// rotateOutput moves the beginning of an output that has grown over max into
// path.1, and what was there into path.2 and so on up to keep. The process holds
// the file open and appends, so it cannot be renamed away. Its beginning is taken
// out of it instead, block by block, which no line that is written meanwhile
// notices (fallocate(2), FALLOC_FL_COLLAPSE_RANGE: ext4, XFS). Where a filesystem
// cannot do that the file is emptied, and lines that are written between the copy
// and that are lost.
func rotateOutput(path string, limit int64, keep int) error {
	if path == "" || limit <= 0 || keep <= 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= limit || !info.Mode().IsRegular() {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	// At least one byte must stay: the range may not reach the end of the file.
	whole := (info.Size() - 1) / int64(st.Bsize) * int64(st.Bsize)
	for n := keep - 1; n >= 1; n-- {
		if err := os.Rename(numbered(path, n), numbered(path, n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := copyBeginning(f, whole, numbered(path, 1), info.Mode().Perm()); err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, whole); err == nil {
		return nil
	}
	rest, err := os.OpenFile(numbered(path, 1), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer rest.Close()
	if _, err := io.Copy(rest, f); err != nil {
		return err
	}
	return f.Truncate(0)
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
