package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve sets blocks aside behind the end of the file, without changing its size.
// A filesystem that cannot do that is not an error.
func reserve(f *os.File, offset, size int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, size)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nil
}
