//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("SECRET", "s")
	st := newStage(t, "plain")
	st.opts.Env["MINE"] = "yes"
	s := st.start()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for pair := range strings.SplitSeq(strings.Trim(string(data), "\x00"), "\x00") {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	for _, name := range names {
		if !slices.Contains(append(passed, "MINE", "ROLE", "GORACE"), name) && !strings.HasPrefix(name, "LC_") {
			t.Errorf("the process has %s", name)
		}
	}
	if !slices.Contains(names, "MINE") || !slices.Contains(names, "PATH") {
		t.Errorf("%v", names)
	}
}

func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run a process as somebody else")
	}
	st := newStage(t, "plain")
	st.opts.Command = []string{"sleep", "1000"}
	st.opts.Dir = "/"
	st.opts.User = "nobody"
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	s := st.start()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	want, err := credentialOf("nobody")
	if err != nil {
		t.Fatal(err)
	}
	var groups []string
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Uid:":
			if fields[1] != fmt.Sprint(want.Uid) {
				t.Errorf("uid %s", fields[1])
			}
		case "Groups:":
			groups = fields[1:]
		}
	}
	if len(groups) != len(want.Groups) || slices.Contains(groups, "0") {
		t.Errorf("groups %v, want %v", groups, want.Groups)
	}
}
