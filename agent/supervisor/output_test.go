//go:build linux

package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

// playRotating tries to rotate where no file may become longer than a few bytes.
func playRotating(say func(...any)) {
	signal.Ignore(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 5000, Max: 5000}); err != nil {
		say(err)
	}
	for range 3 {
		_, err := rotateOutput("out", 1000, 2)
		say("rotated:", err)
	}
	os.Exit(0)
}

// An attempt that fails in its middle costs nothing of what was rotated before, however
// often it is made, and leaves nothing behind. The next that does not fail makes up for it.
func TestOutputCannotBeRotated(t *testing.T) {
	st := newStage(t, "rotating")
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(st.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(st.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return string(data)
	}
	text := strings.Repeat("a line of output\n", 5000)
	put("out", text)
	put("out.1", "the last")
	put("out.2", "the one before")
	put("out.part", "of a killed agent")
	cmd := exec.Command(st.opts.Command[0])
	cmd.Dir, cmd.Env = st.dir, append(os.Environ(), "ROLE=rotating")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	if said := st.said(); strings.Count(said, syscall.EFBIG.Error()) != 3 {
		t.Errorf("it said %q", said)
	}
	names, err := filepath.Glob(filepath.Join(st.dir, "out*"))
	if err != nil || len(names) != 3 || read("out") != text || read("out.1") != "the last" || read("out.2") != "the one before" {
		t.Errorf("%q, %d, %d and %d bytes, %v", names, len(read("out")), len(read("out.1")), len(read("out.2")), err)
	}
	put("out.0", "of a killed agent, whole")
	if _, err := rotateOutput(filepath.Join(st.dir, "out"), 1000, 3); err != nil {
		t.Fatal(err)
	}
	if read("out.1")+read("out") != text || read("out.2") != "of a killed agent, whole" || read("out.3") != "the last" || read("out.0") != "" {
		t.Errorf("%d and %d bytes", len(read("out.1")), len(read("out")))
	}
}
