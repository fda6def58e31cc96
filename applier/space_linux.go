package applier

import (
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace is what an ordinary user may still write at path; files is -1 where
// the filesystem does not count them.
func freeSpace(path string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return space{}, os.NewSyscallError("statfs", err)
	}
	s := space{bytes: math.MaxInt64, files: -1}
	if blocks := int64(st.Bavail); blocks < math.MaxInt64/st.Bsize { //nolint:unconvert // its type differs between systems
		s.bytes = blocks * st.Bsize
	}
	if st.Files > 0 {
		s.files = int64(st.Ffree)
	}
	return s, nil
}
