package config

import "golang.org/x/sys/unix"

// mountOf is the number of the mount that a folder is on; 0 where the kernel does
// not say (before 5.8).
func mountOf(dir string) uint64 {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}
