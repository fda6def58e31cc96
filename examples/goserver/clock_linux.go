package main

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the time as a line of a notification, see MONOTONIC_USEC in sd_notify(3).
func monotonic() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return ""
	}
	return "\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/int64(time.Microsecond), 10)
}
