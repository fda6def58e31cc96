package applier

import (
	"os"

	"golang.org/x/sys/unix"
)

// marks are what statx(2) tells of an object and stat(2) does not.
type marks struct {
	mount uint64 // the number of the mount it is on; 0 if the kernel does not tell
	fixed string // what chattr(1) has made it: immutable or append-only
}

// marksOf looks at a name in a folder and follows no link there. A kernel before 5.8,
// or a sandbox that knows no statx, tells nothing: then devices have to do.
func marksOf(dir *os.File, name string) marks {
	var st unix.Statx_t
	if unix.Statx(int(dir.Fd()), name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st) != nil {
		return marks{}
	}
	var m marks
	if st.Mask&unix.STATX_MNT_ID != 0 {
		m.mount = st.Mnt_id
	}
	switch {
	case st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		m.fixed = "immutable"
	case st.Attributes&unix.STATX_ATTR_APPEND != 0:
		m.fixed = "append-only"
	}
	return m
}
