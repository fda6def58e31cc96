//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hoard gives the agent two descriptors to keep: one when the process begins, one while
// it ends. What the last process has given it takes back first.
func hoard(signals <-chan os.Signal, say func(...any)) {
	give := func(name string) {
		f, err := os.Open(os.Args[0])
		if err != nil || notify("FDSTORE=1\nFDNAME="+name, f) != nil {
			os.Exit(4)
		}
		_ = f.Close()
	}
	for _, name := range []string{"begin", "end"} {
		if notify("FDSTOREREMOVE=1\nFDNAME="+name, nil) != nil {
			os.Exit(4)
		}
	}
	give("begin")
	if notify("READY=1", nil) != nil {
		os.Exit(4)
	}
	say("quiet", os.Getpid()) // what it has sent is dealt with
	<-signals
	give("end")
	os.Exit(0)
}

// However often the process is patched or ends, and whatever is prepared in vain, the
// agent has the same descriptors, children and cgroups as before.
func TestNothingIsLeft(t *testing.T) {
	const rounds = 3 // of four
	st := holding(t)
	st.opts.Env["ROLE"] = "hoarder"
	st.opts.Ready = Ready{Notify: true, Timeout: 2 * time.Minute}
	st.opts.Backoff.Limit = -1
	s := st.start()
	cold := func(between func() error) {
		t.Helper()
		s.Prepare(t.Context())
		if err := errors.Join(between(), s.Stop(t.Context()), s.Start(t.Context(), nil)); err != nil {
			t.Fatal(err)
		}
	}
	open := func() int { // when nothing is on its way
		eventually(t, "silence", func() bool { return strings.Contains(st.said(), fmt.Sprintf("quiet %d\n", s.Status().PID)) })
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var before int
	outputs := []string{st.opts.Output, filepath.Join(st.dir, "other")}
	for i := range rounds {
		cold(func() error { return nil }) // what it stores at its end does not fit
		cold(func() error {
			st.opts.Output = outputs[(i+1)%len(outputs)]
			s.Configure(st.opts)
			return nil
		})
		cold(func() error {
			pid := standbyOf(t, s)
			err := signalTo(pid, syscall.SIGKILL)
			ends(t, pid)
			return err
		})
		s.Prepare(t.Context())
		s.Resume()
		pid := s.Status().PID
		if err := signalTo(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another one", func() bool { return s.Up() && s.Status().PID != pid })
		if i == 0 {
			before = open()
		}
	}
	if files, names := s.stored(); len(files) != 1 || names[0] != "begin" {
		t.Errorf("%q are kept", names)
	}
	eventually(t, "no more descriptors than before", func() bool { return open() <= before })
	if own := childrenOf(os.Getpid()); len(own) != 1 || own[0] != s.Status().PID {
		t.Errorf("the children are %v, the process is %d", own, s.Status().PID)
	}
	if groups := cgroupsOf(t, st.opts.StateFile); len(groups) > 1 {
		t.Errorf("cgroups %v", groups)
	}
	if err := st.end(); err != nil {
		t.Error(err)
	}
	if groups := cgroupsOf(t, st.opts.StateFile); len(groups) > 0 {
		t.Errorf("cgroups at the end: %v", groups)
	}
}
