//go:build linux

package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
