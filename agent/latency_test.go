package main

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clock is a process that says over a datagram socket when it was told, and first of
// all that it listens.
func clock() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	conn, err := net.Dial("unixgram", os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	say := func(ns int64) {
		if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, uint64(ns))); err != nil {
			os.Exit(1)
		}
	}
	say(0)
	for s := range signals {
		now := time.Now().UnixNano()
		if s == syscall.SIGTERM {
			os.Exit(0)
		}
		say(now)
	}
}

// bench is a running agent that supervises a clock.
type bench struct {
	dir   string
	told  *net.UnixConn
	agent *exec.Cmd
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	// Paths of sockets are short.
	dir, err := os.MkdirTemp("", "pa")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{dir: dir}
	socket := filepath.Join(dir, "told")
	if b.told, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.told.Close() })
	config := fmt.Sprintf("region = \"r\"\nverify.require = \"none\"\n[target]\nroot = \"app\"\ncommand = [\"clock\", %q]\n", socket)
	for name, text := range map[string]string{"agent.toml": config, "app/res/0": "0", "app/res/1": "0", "app/res/2": "0", "app/res/3": "0", "app/res/4": "0"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	b.agent = exec.Command("patchagent", "-c", filepath.Join(dir, "agent.toml"))
	b.agent.Stderr = log
	if err := b.agent.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.agent.Process.Signal(syscall.SIGTERM); _ = b.agent.Wait() })
	if !eventually(tb.Context(), func() bool { return strings.Contains(b.log(), "process is up") }) {
		tb.Fatalf("the agent did not start:\n%s", b.log())
	}
	_ = b.told.SetReadDeadline(time.Now().Add(patience))
	if _, err := b.told.Read(make([]byte, 8)); err != nil {
		tb.Fatalf("the process does not listen: %v\n%s", err, b.log())
	}
	return b
}

func (b *bench) log() string {
	data, _ := os.ReadFile(filepath.Join(b.dir, "agent.log"))
	return string(data)
}

// drop renames a warm patch of five files into the folder, and returns how long it
// took until the process was told.
func (b *bench) drop(tb testing.TB, build int) time.Duration {
	tb.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	var manifest strings.Builder
	fmt.Fprintf(&manifest, `{"justres": true, "region": "r", "build": "%d", "modfiles": [`, build)
	for i := range 5 {
		fmt.Fprintf(&manifest, `%s{"name": "%d", "path": "/res"}`, map[bool]string{true: ", "}[i > 0], i)
		f, err := w.Create(fmt.Sprintf("mod/%d", i))
		if err != nil {
			tb.Fatal(err)
		}
		fmt.Fprintf(f, "%d %s", build, strings.Repeat("x", 4000))
	}
	f, err := w.Create("manifest.json")
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprint(f, manifest.String(), "]}")
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	name := filepath.Join(b.dir, "patch", fmt.Sprintf("%d.zip", build))
	if err := os.WriteFile(name+".part", buf.Bytes(), 0o644); err != nil {
		tb.Fatal(err)
	}
	began := time.Now().UnixNano()
	if err := os.Rename(name+".part", name); err != nil {
		tb.Fatal(err)
	}
	_ = b.told.SetReadDeadline(time.Now().Add(patience))
	var told [8]byte
	if _, err := b.told.Read(told[:]); err != nil {
		tb.Fatalf("the process was not told: %v\n%s", err, b.log())
	}
	if !eventually(tb.Context(), func() bool {
		_, err := os.Stat(filepath.Join(b.dir, "patch/applied", fmt.Sprintf("%d_%d.zip", build, build)))
		return err == nil
	}) {
		tb.Fatalf("the patch was not put away:\n%s", b.log())
	}
	return time.Duration(int64(binary.LittleEndian.Uint64(told[:])) - began)
}

// BenchmarkRenameToTold measures a warm patch of five files, from the rename into
// the folder until the process has its signal, everything made durable.
func BenchmarkRenameToTold(b *testing.B) {
	w := newBench(b)
	var all []time.Duration
	for b.Loop() {
		all = append(all, w.drop(b, len(all)+1))
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "ms/told-median")
	b.ReportMetric(float64(all[len(all)*9/10].Microseconds())/1000, "ms/told-p90")
	b.ReportMetric(w.resident(b), "MiB-resident")
}

// resident is the agent's memory, in MiB.
func (b *bench) resident(tb testing.TB) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.agent.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	kib, err := strconv.Atoi(string(m[1]))
	if err != nil {
		tb.Fatal(err)
	}
	return float64(kib) / 1024
}

// ticks is the processor time that the agent has used, in clock ticks.
func (b *bench) ticks(tb testing.TB) int {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.agent.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[14-3])
	if err != nil {
		tb.Fatal(err)
	}
	system, err := strconv.Atoi(fields[15-3])
	if err != nil {
		tb.Fatal(err)
	}
	return user + system
}

// An idle agent does next to nothing, and is small.
func TestIdle(t *testing.T) {
	b := newBench(t)
	b.drop(t, 1)
	before := b.ticks(t)
	// An unfinished drop waits meanwhile.
	if err := os.WriteFile(filepath.Join(b.dir, "patch/wait.zip"), []byte("PK\x03\x04"), 0o644); err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * time.Second) // what is measured is time passing
	// A loop that is busy uses 300; some are the measuring's own, on a slow machine.
	if used := b.ticks(t) - before; used > 30 {
		t.Errorf("%d ticks of processor time in 3 s of idling", used)
	} else {
		t.Logf("%d ticks of processor time in 3 s of idling", used)
	}
	const most = 24
	if mib := b.resident(t); mib > most && !raceEnabled {
		t.Errorf("%.1f MiB resident, more than %d", mib, most)
	} else {
		t.Logf("%.1f MiB resident", mib)
	}
}
