//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Limits are the process's and nobody else's.
func TestLimits(t *testing.T) {
	st := newStage(t, "plain")
	st.opts.Command, st.opts.Dir = []string{"sleep", "1000"}, "/"
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	if os.Getuid() == 0 {
		st.opts.User = "nobody"
	}
	const little = 256 << 20 // less than a Go program has reserved
	st.opts.Limits = Limits{Umask: new(0o137), Nice: new(7), Resources: []Resource{{"nofile", 99, 111}, {"as", little, little}, {"core", 0, 0}, {"nproc", 1000, 1000}}}
	st.opts.Env = map[string]string{}
	for i := range 12 { // the copy has much to lay out
		st.opts.Env[fmt.Sprint("LARGE_", i)] = strings.Repeat("x", 100<<10)
	}
	s := st.start()
	proc := fmt.Sprintf("/proc/%d/", s.Status().PID)
	status, err1 := os.ReadFile(proc + "status")
	limits, err2 := os.ReadFile(proc + "limits")
	stat, err3 := os.ReadFile(proc + "stat")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		string(status): `(?m)^Umask:\s+0137$`,
		string(limits): fmt.Sprintf(`(?s)core file size +0 +0 .*processes +1000 +1000 .*open files +99 +111 .*address space +%d +%[1]d `, little),
		string(stat):   `\) \S (\S+ ){15}7 `,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("not %s:\n%s", want, text)
		}
	}
	out, err := RunCommand(t.Context(), st.opts.command([]string{"sh", "-c", "umask; ulimit -n; nice"}, nil, time.Minute))
	if err != nil || strings.Contains(string(out), "0137") || strings.Contains(string(out), "99\n") || strings.HasSuffix(string(out), "\n7\n") {
		t.Errorf("a command has them: %s, %v", out, err)
	}
}

// Why a program cannot be executed is said by a copy that has the limits already.
func TestLimitedProgramCannotBeExecuted(t *testing.T) {
	st := newStage(t, "plain")
	st.opts.Limits = Limits{Resources: []Resource{{"as", 1 << 20, 1 << 20}, {"data", 0, 0}, {"nofile", 0, 0}}}
	st.opts.Command, st.opts.Dir = []string{"/no/program"}, "/"
	if err := st.run().Start(t.Context(), nil); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "/no/program") {
		t.Errorf("no program: %v", err)
	}
	st.opts.Command = []string{st.dir}
	if err := st.run().Start(t.Context(), nil); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), st.dir) {
		t.Errorf("a folder: %v", err)
	}
}

func TestLimitCannotBeSet(t *testing.T) {
	for says, limits := range map[string]Limits{
		"cannot set target.rlimits.nofile to 9:5: invalid argument":  {Resources: []Resource{{"nofile", 9, 5}}},
		"cannot set target.rlimits.seats: there is no such resource": {Resources: []Resource{{"seats", 9, 9}}},
	} {
		st := newStage(t, "plain")
		st.opts.Limits = limits
		if err := st.run().Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
