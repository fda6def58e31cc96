package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// closeForChildren has the files that the agent was started with, beside the three,
// closed in whatever it starts. Those that it opens itself are so already.
func closeForChildren() {
	const first = 3
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // there is no /proc, and without it no process is supervised
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
