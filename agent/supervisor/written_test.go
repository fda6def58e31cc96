//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func numberedLines(stream string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%s %d\n", stream, i)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestTail(t *testing.T) {
	for _, c := range []struct {
		name, count, out, err string
		spool                 bool
		want                  string
	}{
		{"nothing", "0", "", "", true, ""},
		{"no spool either", "0", "", "", false, ""},
		{"stdout", "0", "a\n\nb", "", true, "a\n\nb"},
		{"stderr", "0", "", "a\nb\n", true, "a\nb"},
		{"both", "200", "", "", true, "stdout:\n" + numberedLines("out", 140, 200) + "\nstderr:\n" + numberedLines("err", 140, 200)},
		{"file", "0", numberedLines("out", 0, 200), "end\n", false, numberedLines("out", 140, 200) + "end"},
		{"nasty", "0", "\ta\x1b[31m\x07 \xff\xfeü\u202e\u2028.\r\n\x80", "", true, "\ta�[31m� ��ü��.\n�"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, _, _ := spooled(t, "prints")
			if !c.spool {
				st.opts.Spool, st.opts.Output = "", filepath.Join(st.dir, "out")
			}
			st.opts.Env["COUNT"], st.opts.Env["OUT"], st.opts.Env["ERR"] = c.count, c.out, c.err
			st.printOnce()
			if got := st.s.Tail(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTailIsBounded(t *testing.T) {
	long := strings.Repeat(strings.Repeat("ü", 400)+"\n", 100)
	for _, c := range []struct {
		out, err string
		least    int // lines
	}{{long, "", 60}, {long, "short\n", 62}, {"short\n", long, 62}, {long, long, 70}, {strings.Repeat("x", tailBytes*2), "", 1}, {strings.Repeat("x", 50_000) + "\n" + long, "", 60}} {
		opts := Options{Spool: filepath.Join(t.TempDir(), "output")}
		s := New(opts, nil)
		s.written.begin(opts)
		for name, text := range map[string]string{".out": c.out, ".err": c.err} {
			if err := os.WriteFile(opts.Spool+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := s.Tail()
		lines := strings.Split(got, "\n")
		if len(got) > tailText || len(lines) < c.least || !utf8.ValidString(got) {
			t.Errorf("%d bytes, %d lines", len(got), len(lines))
		}
		if c.out == long && c.err == long && strings.Count(strings.SplitAfter(got, "stderr:")[1], "…") < 35 {
			t.Errorf("stderr has no fair part of %q", got)
		}
		for _, line := range lines {
			if len(line) > tailLine || len(line) > 100 && (len(line) < tailLine-4 || !strings.HasSuffix(line, "…")) {
				t.Errorf("%q", line)
			}
		}
	}
}

// Only the newest process's lines count, also when it has none, or the file was
// emptied or rotated meanwhile.
func TestTailIsOfTheNewestStart(t *testing.T) {
	for _, output := range []bool{false, true} {
		st, _, _ := spooled(t, "prints")
		file := st.opts.Spool + ".out"
		if output {
			file = filepath.Join(st.dir, "out")
			st.opts.Spool, st.opts.Output = "", file
			st.opts.OutputMaxSize, st.opts.OutputMaxFiles = 64<<10, 3
		}
		if err := os.WriteFile(file, []byte(strings.Repeat("an earlier agent's\n", 5000)), 0o600); err != nil {
			t.Fatal(err)
		}
		st.opts.Env["OUT"] = "first\n"
		st.printOnce()
		if got := st.s.Tail(); got != "first" {
			t.Errorf("%q", got)
		}
		if output && collapses(t) {
			if err := st.s.ask(t.Context(), func() error { st.s.rotate(); return nil }); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(file); err != nil || info.Size() > 32<<10 || info.Size() < 16<<10 {
				t.Errorf("%d bytes, %v", info.Size(), err)
			}
			if got := st.s.Tail(); got != "first" {
				t.Errorf("after the rotation: %q", got)
			}
		}
		next := st.opts
		next.Env = map[string]string{"ROLE": "plain"}
		next.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
		st.s.Configure(next)
		if err := st.s.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got := st.s.Tail(); got != "" {
			t.Errorf("it has not said anything, but %q", got)
		}
		if err := os.WriteFile(file, []byte("emptied\n"), 0); err != nil {
			t.Fatal(err)
		}
		if got := st.s.Tail(); got != "emptied" {
			t.Errorf("%q", got)
		}
		_ = st.end()
	}
}

// Anything but a plain file is not read from: that could wait, or take lines away.
func TestTailOfAPipe(t *testing.T) {
	st := newStage(t, "prints")
	if err := syscall.Mkfifo(st.opts.Output, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(st.opts.Output, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st.opts.Env["OUT"] = "line\n"
	st.printOnce()
	_ = f.Close() // to open the pipe would wait for a writer now
	tail := make(chan string, 1)
	go func() { tail <- st.s.Tail() }()
	select {
	case got := <-tail:
		if got != "" {
			t.Errorf("%q", got)
		}
	case <-time.After(2 * time.Minute):
		w, err := os.OpenFile(st.opts.Output, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("it waits for the pipe: %q", <-tail)
		_ = w.Close()
	}
}
