package config

import "golang.org/x/sys/unix"

// mountID is the number of the mount that a path leads to; 0 if the kernel, before
// 5.8, or a sandbox does not tell it. Then the device has to do.
func mountID(path string) uint64 {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}
