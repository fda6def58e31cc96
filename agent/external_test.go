package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdEnds is for a service that no agent of the story stops, should the story fail. Its
// number may be another process's by then: that works somewhere else.
func cmdEnds(ts *testscript.TestScript, _ bool, args []string) {
	file, dir := ts.MkAbs(args[0]), ts.MkAbs("app")
	ts.Defer(func() {
		data, _ := os.ReadFile(file)
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || pid <= 1 {
			return
		}
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == dir {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Signal(syscall.SIGKILL)
			}
		}
	})
}
