//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// print is the processes of these tests.
func print(role string) {
	switch role {
	case "prints": // COUNT lines to both, then OUT and ERR
		count, _ := strconv.Atoi(os.Getenv("COUNT"))
		for i := range count {
			fmt.Fprintf(os.Stdout, "out %d\n", i)
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
		fmt.Fprint(os.Stdout, os.Getenv("OUT"))
		fmt.Fprint(os.Stderr, os.Getenv("ERR"))
		os.Exit(3)
	case "prints on": // until it is killed
		for i := 0; ; i++ {
			_, err := fmt.Fprintf(os.Stdout, "out %d\n", i)
			_, err2 := fmt.Fprintf(os.Stderr, "err %d\n", i)
			if err != nil || err2 != nil {
				os.Exit(4)
			}
		}
	case "piped": // a supervisor whose own stdout is a pipe
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		opts := Options{Command: []string{os.Args[0]}, Dir: ".", Env: map[string]string{"ROLE": "prints on"}, StateFile: "state", StopTimeout: time.Second, Spool: "output"}
		opts.Ready.Timeout = time.Minute
		s := New(opts, hclog.NewNullLogger())
		go func() { _ = s.Run(context.Background()) }()
		if s.Start(context.Background(), nil) != nil {
			os.Exit(6)
		}
	}
}

// console is a writer that fails as long as it is told to.
type console struct {
	mu     sync.Mutex
	data   bytes.Buffer
	broken bool
	failed int
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		c.failed++
		return 0, syscall.EPIPE
	}
	return c.data.Write(p)
}

func (c *console) is(broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = broken
}

func (c *console) failures() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.String()
}

func (c *console) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.Len()
}

// spooled is a stage whose process's output goes through a spool to two consoles.
func spooled(t *testing.T, role string) (st *stage, out, err *console) {
	t.Helper()
	st = newStage(t, role)
	out, err = &console{}, &console{}
	st.opts.Output, st.opts.Spool = "", filepath.Join(st.dir, "output")
	st.opts.Stdout, st.opts.Stderr = out, err
	st.opts.Ready = Ready{Delay: time.Millisecond, Timeout: time.Minute}
	return st, out, err
}

// printOnce has the process run to its end.
func (st *stage) printOnce() {
	st.t.Helper()
	st.opts.Ready.Delay = time.Minute // it ends before
	st.opts.Ready.Timeout = time.Minute
	s := st.run()
	if err := s.Start(st.t.Context(), nil); !errors.Is(err, ErrStartFailed) || !strings.Contains(err.Error(), "exit status 3") {
		st.t.Fatal(err)
	}
}

// wantLines checks that text is the lines of the stream from the first on, and
// returns how many.
func wantLines(t *testing.T, text, stream string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(text) {
		if want := fmt.Sprintf("%s %d\n", stream, n); line != want {
			t.Fatalf("%q, want %q", line, want)
		}
		n++
	}
	return n
}

func TestSpoolArrives(t *testing.T) {
	st, out, err := spooled(t, "prints")
	for _, name := range []string{".out", ".err"} { // an earlier agent's
		if err := os.WriteFile(st.opts.Spool+name, []byte("old line\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	st.opts.Env["COUNT"] = "500"
	st.opts.Env["OUT"] = "bytes \x1b[1m\xff, and no end of line"
	st.printOnce()
	if err := st.end(); err != nil {
		t.Fatal(err)
	}
	text, last := strings.CutSuffix(out.String(), st.opts.Env["OUT"])
	if !last || wantLines(t, text, "out") != 500 || wantLines(t, err.String(), "err") != 500 {
		t.Errorf("%d and %d bytes", out.size(), err.size())
	}
}

// A line arrives when it is written, not only in the end.
func TestSpoolFollows(t *testing.T) {
	st, out, _ := spooled(t, "plain")
	s := st.start()
	f, err := os.OpenFile(st.opts.Spool+".out", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var want strings.Builder
	quick := func() bool { // quicker than by the poll
		began := time.Now()
		for i := range 20 {
			fmt.Fprintln(f, i)
			want.WriteString(fmt.Sprintln(i))
			eventually(t, "the line", func() bool { return out.String() == want.String() })
		}
		return time.Since(began) < 10*spoolPoll
	}
	for tries := 3; !quick(); tries-- { // a slow machine may be slow now and then
		if tries == 0 {
			t.Fatal("only the poll has found them")
		}
	}
	// Somebody removes it, and the next process makes its own.
	if err := os.Remove(st.opts.Spool + ".out"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "removed")
	eventually(t, "the line", func() bool { return strings.HasSuffix(out.String(), "removed\n") })
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.opts.Env["ROLE"], st.opts.Env["OUT"] = "prints", "new\n"
	st.opts.Ready.Delay = time.Minute
	s.Configure(st.opts)
	if err := s.Start(t.Context(), nil); err == nil {
		t.Fatal("it did not end")
	}
	eventually(t, "the new one's", func() bool { return strings.HasSuffix(out.String(), "removed\nnew\n") })
	// Somebody empties it.
	if err := os.WriteFile(st.opts.Spool+".out", []byte("-\n"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rest", func() bool { return strings.HasSuffix(out.String(), "removed\nnew\n-\n") })
}

func TestSpoolShrinksWithoutLoss(t *testing.T) {
	if !collapses(t) {
		t.Skip("this filesystem cannot take the beginning out of a file; lines may be lost there, as documented")
	}
	st, out, err := spooled(t, "prints on")
	st.opts.StopTimeout = time.Millisecond // it does not listen
	s := st.start()
	eventually(t, "3 MiB", func() bool { return min(out.size(), err.size()) > 3<<20 })
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := st.end(); err != nil {
		t.Fatal(err)
	}
	for stream, c := range map[string]*console{"out": out, "err": err} {
		data, err := os.ReadFile(st.opts.Spool + "." + stream)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > spoolMax*3/2 || len(data) < tailBytes {
			t.Errorf("%d bytes are left of %d", len(data), c.size())
		}
		n := wantLines(t, c.String(), stream)
		if want := fmt.Sprintf("%s %d\n", stream, n-1); !bytes.HasSuffix(data, []byte(want)) {
			t.Errorf("%d lines, and the file ends with %q", n, data[len(data)-20:])
		}
	}
	// The beginning has moved with what was taken out.
	if tail := s.Tail(); strings.Count(tail, "\n") != 2*tailLines+1 {
		t.Errorf("%q", tail)
	}
}

// A process that says little after one that said much: what is taken out meanwhile
// is the other's.
func TestTailWhileSpoolShrinks(t *testing.T) {
	st, out, _ := spooled(t, "plain")
	big := strings.Repeat("the other's line\n", spoolMax/17)
	if err := os.WriteFile(st.opts.Spool+".out", []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	s := st.start()
	f, err := os.OpenFile(st.opts.Spool+".out", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var own strings.Builder
	for i := range 10 {
		fmt.Fprintf(f, "its own %d\n", i)
		fmt.Fprintf(&own, "its own %d\n", i)
	}
	// After the second line the other's are many enough to be taken out.
	eventually(t, "all", func() bool { return out.String() == own.String() })
	eventually(t, "a smaller file", func() bool { info, err := f.Stat(); return err == nil && info.Size() < spoolMax/2 })
	if tail := s.Tail(); collapses(t) && tail+"\n" != own.String() || strings.Contains(tail, "other") {
		t.Errorf("%q", tail)
	}
}

func TestSpoolElsewhere(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "output-")
	if err != nil {
		t.Skip("there is no other filesystem")
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	st, out, _ := spooled(t, "plain")
	st.opts.Spool = filepath.Join(dir, "output")
	s := st.start()
	f, err := os.OpenFile(st.opts.Spool+".out", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	big := strings.Repeat("a line of output\n", spoolMax/17+1)
	if _, err := io.WriteString(f, big); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty file", func() bool { info, err := f.Stat(); return err == nil && info.Size() == 0 })
	fmt.Fprintln(f, "and another")
	eventually(t, "all", func() bool { return out.String() == big+"and another\n" })
	if tail := s.Tail(); tail != "and another" {
		t.Errorf("%q", tail)
	}
}

func TestSpoolSurvivesItsConsole(t *testing.T) {
	st, out, err := spooled(t, "prints on")
	st.opts.StopTimeout = time.Millisecond
	out.is(true)
	s := st.start()
	pid := s.Status().PID
	eventually(t, "failures", func() bool { return out.failures() > 3 && err.size() > 1000 })
	if out.is(false); s.Status().PID != pid || !s.Up() {
		t.Errorf("%+v", s.Status())
	}
	eventually(t, "later lines", func() bool { return out.size() > 1000 })
}

// What comes while the console is slow arrives before Run returns.
func TestSpoolIsDrained(t *testing.T) {
	for range 10 {
		st, _, _ := spooled(t, "plain")
		console := &stuck{reached: make(chan struct{}), let: make(chan struct{})}
		st.opts.Stdout = console
		s := st.start()
		f, err := os.OpenFile(st.opts.Spool+".out", os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(f, "first")
		<-console.reached
		fmt.Fprintln(f, "last")
		_ = f.Close()
		ended := make(chan error, 1)
		go func() { ended <- st.end() }()
		eventually(t, "the end of the process", func() bool { return s.Status().State == Stopped })
		close(console.let)
		if err := <-ended; err != nil || console.String() != "first\nlast\n" {
			t.Fatalf("%q, %v", console.String(), err)
		}
	}
}

// stuck is a console that takes nothing until it is let go.
type stuck struct {
	reached chan struct{}
	let     chan struct{}
	once    sync.Once
	console
}

func (s *stuck) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.reached) })
	<-s.let
	return s.console.Write(p)
}

// Nobody reads what the agent prints, and yet the files stay small and the agent ends.
func TestSpoolIsBoundedWhenNobodyReads(t *testing.T) {
	if !collapses(t) {
		t.Skip("this filesystem cannot take the beginning out of a file")
	}
	st, _, _ := spooled(t, "plain")
	st.undrained = true
	console := &stuck{reached: make(chan struct{}), let: make(chan struct{})}
	st.opts.Stdout = console
	s := st.start()
	f, err := os.OpenFile(st.opts.Spool+".out", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, "first")
	<-console.reached
	if _, err := io.WriteString(f, strings.Repeat("-", spoolMost)+"\nlast\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.ask(t.Context(), func() error { s.rotate(); return nil }); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() > 2*spoolMax {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if s.Tail() != "last" { // the line before is cut
		t.Errorf("%q", s.Tail())
	}
	if err := st.end(); err != nil { // and here it still hangs
		t.Fatal(err)
	}
	close(console.let)
	eventually(t, "the last", func() bool {
		return strings.HasPrefix(console.String(), "first\n-") && strings.HasSuffix(console.String(), "-\nlast\n")
	})
}

// Neither the agent nor its process ends when nobody holds the other end of the
// agent's stdout any more.
func TestProcessSurvivesAClosedPipe(t *testing.T) {
	st := newStage(t, "")
	cmd := exec.Command(st.opts.Command[0])
	cmd.Dir, cmd.Env = st.dir, append(os.Environ(), "ROLE=piped")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	defer func() { _ = cmd.Process.Kill(); <-ended }()
	eventually(t, "its process", func() bool { return strings.Contains(st.said(), "up\n") })
	pid := readState(t, st).PID
	defer func() { _ = signalTo(pid, syscall.SIGKILL) }()
	if _, err := io.ReadFull(pipe, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = pipe.Close()
	go func() { _ = cmd.Wait(); close(ended) }()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(st.dir, "output.out"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	// The process writes on, and the agent is there to take that away.
	for range 2 {
		eventually(t, "more output", func() bool { return size() > spoolMax*3/4 })
		eventually(t, "less output", func() bool { return size() < spoolMax*3/4 })
	}
	if !alive(pid) || !alive(cmd.Process.Pid) {
		t.Error("the process or the agent has ended")
	}
}
