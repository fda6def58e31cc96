//go:build linux

package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// No line is lost or torn while the output is rotated under a process that writes.
func TestOutputIsRotatedWithoutLoss(t *testing.T) {
	st := newStage(t, "talker")
	st.opts.StopTimeout = 10 * time.Millisecond // it does not listen
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	s := st.start()
	const limit, files = 64 << 10, 50
	for n := 1; n <= 5; n++ {
		eventually(t, "output", func() bool { info, err := os.Stat(st.opts.Output); return err == nil && info.Size() > limit })
		if _, err := rotateOutput(st.opts.Output, limit, files); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !collapses(t) {
		t.Skip("this filesystem cannot take the beginning out of a file; lines may be lost there, as documented")
	}
	var all []byte
	for n := 5; n >= 0; n-- {
		name := st.opts.Output
		if n > 0 {
			name = numbered(name, n)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	i := 0
	for line := range bytes.Lines(all) {
		if want := fmt.Sprintf("line %d\n", i); string(line) != want && i*8 < len(all)-200 {
			t.Fatalf("%q, want %q", line, want)
		}
		i++
	}
}

func collapses(t *testing.T) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rotateOutput(path, 1, 1); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// Where it cannot be taken out, the file is emptied and nothing that was in it is lost.
func TestOutputIsRotatedElsewhere(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "output-")
	if err != nil {
		t.Skip("there is no other filesystem")
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "out")
	text := strings.Repeat("a line of output\n", 10_000)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rotateOutput(path, 1000, 2); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	rest, err := os.ReadFile(path)
	if err != nil || string(first)+string(rest) != text {
		t.Errorf("%d + %d bytes of %d, %v", len(first), len(rest), len(text), err)
	}
}

// A pipe is written to if somebody reads it. The agent does not wait for that.
func TestOutputIsAPipe(t *testing.T) {
	st := newStage(t, "prints")
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	st.opts.Command, st.opts.Env = []string{"sh", "-c", "echo hello; exec sleep 1000"}, nil
	if err := unix.Mkfifo(st.opts.Output, 0o600); err != nil {
		t.Fatal(err)
	}
	s := st.run()
	if err := s.Start(t.Context(), nil); !errors.Is(err, ErrStartFailed) || !strings.Contains(err.Error(), "nobody reads the pipe "+st.opts.Output) {
		t.Fatalf("%v", err)
	}
	r, err := os.OpenFile(st.opts.Output, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("hello\n"))
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/1", s.Status().PID))
	_, flags, _ := strings.Cut(string(info), "flags:\t")
	if mode, _ := strconv.ParseUint(strings.Fields(flags + " ?")[0], 8, 64); err != nil || mode == 0 || mode&unix.O_NONBLOCK != 0 {
		t.Errorf("it does not block: %q, %v", info, err)
	}
}
