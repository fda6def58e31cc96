//go:build linux

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/watcher"
)

// flood is an agent whose folder is full of junk.
type flood struct {
	t   *testing.T
	dir string
	log string
}

func newFlood(t *testing.T, dir, keys string) *flood {
	t.Helper()
	f := &flood{t: t, dir: dir, log: filepath.Join(dir, "agent.log")}
	f.must(os.MkdirAll(dir, 0o755))
	f.configure(keys)
	f.must(errors.Join(os.MkdirAll(filepath.Join(dir, "app"), 0o755), os.MkdirAll(filepath.Join(dir, "patch"), 0o755),
		os.WriteFile(filepath.Join(dir, "app/version"), []byte("1"), 0o644)))
	return f
}

func (f *flood) configure(keys string) {
	f.t.Helper()
	path := filepath.Join(f.dir, "agent.toml")
	f.must(errors.Join(os.WriteFile(path+".new", []byte("region = \"r\"\nbuild = 200\nverify.require = \"none\"\n"+keys+
		"\n[target]\nroot = \"app\"\ncommand = [\"service\"]\n"), 0o644), os.Rename(path+".new", path)))
}

func (f *flood) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// start runs the agent until the test ends; the shell's limits are set before.
func (f *flood) start(limits string) {
	f.t.Helper()
	log, err := os.Create(f.log)
	f.must(err)
	defer log.Close()
	cmd := exec.Command("sh", "-c", limits+"exec patchagent -c agent.toml")
	cmd.Dir, cmd.Stderr = f.dir, log
	f.must(cmd.Start())
	f.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	f.until("the service", func() bool { // else it may be told before it listens
		said, _ := os.ReadFile(filepath.Join(f.dir, "app/service.log"))
		return strings.Contains(string(said), "start")
	})
}

func (f *flood) said() string {
	data, _ := os.ReadFile(f.log)
	return string(data)
}

func (f *flood) until(what string, yes func() bool) {
	f.t.Helper()
	if inTime(f.t.Context(), yes) {
		return
	}
	said := f.said()
	f.t.Fatalf("waited for %s; the agent said:\n%s", what, said[max(0, len(said)-5000):])
}

// inTime is eventually for what is much, and takes its time on a machine that does other
// things too.
func inTime(ctx context.Context, yes func() bool) bool {
	for range 2 {
		if eventually(ctx, yes) {
			return true
		}
	}
	return false
}

func (f *flood) put(name string, content []byte) {
	f.t.Helper()
	path := filepath.Join(f.dir, "patch", name)
	f.must(errors.Join(os.WriteFile(path+".part", content, 0o644), os.Rename(path+".part", path)))
}

// receipts are the outcomes of all drops, by name.
func (f *flood) receipts() map[string][]string {
	f.t.Helper()
	all, err := record.Read(filepath.Join(f.dir, ".patchagent"))
	f.must(err)
	got := map[string][]string{}
	for _, r := range all {
		got[r.Patch] = append(got[r.Patch], strings.TrimSpace(string(r.Outcome)+" "+string(r.Reason)))
	}
	return got
}

func (f *flood) ends(name, outcome string) {
	f.t.Helper()
	f.until(name+" to end", func() bool { return len(f.receipts()[name]) > 0 })
	if got := f.receipts()[name]; got[0] != outcome || len(got) != 1 {
		f.t.Fatalf("%s: %q, want %q; the agent said:\n%s", name, got, outcome, f.said())
	}
}

// packed is a package that writes version.
func packed(tb testing.TB, build int, version string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, text := range map[string]string{
		"manifest.json": fmt.Sprintf(`{"justres": true, "region": "r", "build": "%d", "modfiles": [{"name": "version", "path": "/"}]}`, build), "mod/version": version,
	} {
		out, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(out, text)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// junk fills the folder, and returns how those end that are files.
func (f *flood) junk(many int) map[string]string {
	f.t.Helper()
	whole, ends := zipped(f.t), map[string]string{}
	for i := range many {
		name := fmt.Sprintf("%04d.zip", i)
		path := filepath.Join(f.dir, "patch", name)
		switch i % 5 {
		case 0:
			ends[name] = "rejected not-a-zip"
			f.must(os.WriteFile(path, []byte("junk"), 0o644))
		case 1:
			ends[name] = "rejected incomplete"
			f.must(os.WriteFile(path, whole[:len(whole)/2+10], 0o644))
		case 2:
			ends[name] = "rejected checksum-mismatch"
			f.must(errors.Join(os.WriteFile(path+".sha256", []byte(strings.Repeat("0", 64)+"  "+name+"\n"), 0o644), os.WriteFile(path, whole, 0o644)))
		case 3:
			f.must(syscall.Mkfifo(path, 0o644))
		case 4:
			f.must(os.Symlink("0000.zip", path))
		}
	}
	return ends
}

// TestFlood drops 2,000 files that are no packages; one that is gets applied while
// they stand, and each of the others ends once.
func TestFlood(t *testing.T) {
	const many, keep = 2000, 10
	dir, err := os.MkdirTemp("/dev/shm", "flood-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := newFlood(t, dir, "patch.patience = \"10m\"\npatch.max_waiting = 20")
	junk := f.junk(many)
	f.start("")
	f.put("good.zip", packed(t, 300, "2"))
	f.ends("good.zip", "applied")
	for name, got := range f.receipts() { // a wrong checksum is refused at once; the rest is waited for
		if junk[name] != "rejected checksum-mismatch" && name != "good.zip" {
			t.Errorf("%s ended before the package was applied: %s", name, got)
		}
	}
	f.configure(fmt.Sprintf("patch.patience = \"100ms\"\npatch.keep_rejected = %d", keep))
	f.until("all of the flood to end", func() bool { return len(f.receipts()) == len(junk)+1 })
	for name, outcomes := range f.receipts() {
		if want := junk[name]; name != "good.zip" && (len(outcomes) != 1 || outcomes[0] != want) {
			t.Errorf("%s: %q, want %q", name, outcomes, want)
		}
	}
	f.until("the pruning", func() bool {
		zips, err := filepath.Glob(filepath.Join(dir, "patch/rejected/*.zip"))
		f.must(err)
		all, err := os.ReadDir(filepath.Join(dir, "patch/rejected"))
		f.must(err)
		return len(zips) <= keep && len(zips) > 0 && len(all) <= 3*keep
	})
	said := f.said()
	if n := strings.Count(said, "patch waiting"); n > 10*mostLines {
		t.Errorf("%d lines about what waits", n)
	}
	if !strings.Contains(said, "many patches waiting") || !strings.Contains(said, "old rejected patches removed") {
		t.Errorf("it does not say that many wait, or what was removed:\n%s", said[:min(len(said), 3000)])
	}
}

// small mounts a filesystem of that size.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small filesystem cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestSparseGiants: a file that takes nothing in the folder would take all of the disk
// as a copy. It waits, is given up, and what fits is applied meanwhile.
func TestSparseGiants(t *testing.T) {
	dir := small(t, "32m")
	f := newFlood(t, dir, "[patch]\npatience = \"2s\"\n[verify]\nmax_size = \"1GiB\"")
	sparse := func(name string, size int64) {
		out, err := os.Create(filepath.Join(dir, "patch", name+".part"))
		f.must(err)
		w := zip.NewWriter(&seeker{File: out, hole: size})
		h := zip.FileHeader{Name: "zeros", CompressedSize64: uint64(size), UncompressedSize64: uint64(size)}
		raw, err := w.CreateRaw(&h)
		f.must(err)
		_, err = raw.Write([]byte("0"))
		f.must(errors.Join(err, w.Flush()))
		f.must(errors.Join(w.Close(), out.Close(), os.Rename(out.Name(), filepath.Join(dir, "patch", name))))
	}
	f.start("")
	sparse("limit.zip", 2<<30)
	sparse("space.zip", 64<<20)
	f.until("its reason", func() bool { return strings.Contains(f.said(), `patch=space.zip reason="no space"`) })
	f.put("good.zip", packed(t, 300, "2"))
	f.ends("good.zip", "applied")
	f.ends("space.zip", "rejected no-space")
	f.ends("limit.zip", "rejected limit-exceeded")
}

// seeker makes a hole where the content of the only file would be.
type seeker struct {
	*os.File
	hole int64
}

func (s *seeker) Write(p []byte) (int, error) {
	if i := bytes.IndexByte(p, '0'); s.hole > 0 && len(p) > 0 && i == len(p)-1 && bytes.Contains(p, []byte("zeros")) {
		n, err := s.File.Write(p[:i])
		if err == nil {
			_, err = s.Seek(s.hole, io.SeekCurrent)
			s.hole = 0
		}
		if err != nil {
			return n, err
		}
		return len(p), nil
	}
	return s.File.Write(p)
}

// TestDiskFullOfClaims: on a small filesystem more packages come than have space as
// copies. All of them have their turn, and the reserve is never touched.
func TestDiskFullOfClaims(t *testing.T) {
	patch, dir := t.TempDir(), small(t, "24m")
	f := newFlood(t, dir, fmt.Sprintf("[patch]\npatience = \"10m\"\npoll = \"20ms\"\ndir = %q", patch))
	f.must(os.WriteFile(filepath.Join(patch, "HOLD"), nil, 0o644))
	const many = 6
	for i := range many {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		for name, text := range map[string]string{"manifest.json": `{"justres": true, "region": "r", "build": "300"}`, "readme": strings.Repeat("x", 5<<20)} {
			out, err := w.CreateHeader(&zip.FileHeader{Name: name})
			f.must(err)
			_, err = io.WriteString(out, text)
			f.must(err)
		}
		f.must(w.Close())
		f.must(os.WriteFile(filepath.Join(patch, fmt.Sprint(i, ".zip")), buf.Bytes(), 0o644))
	}
	f.start("")
	f.until("HOLD", func() bool { return strings.Contains(f.said(), "reason=hold") })
	f.must(os.Remove(filepath.Join(patch, "HOLD")))
	for i := range many {
		f.ends(fmt.Sprint(i, ".zip"), "applied")
	}
	if !strings.Contains(f.said(), `reason="no space"`) {
		t.Errorf("none had to wait for space:\n%s", f.said())
	}
}

// TestFewDescriptors: more packages come than the agent may have open.
func TestFewDescriptors(t *testing.T) {
	f := newFlood(t, t.TempDir(), "[patch]\npoll = \"20ms\"")
	f.must(os.WriteFile(filepath.Join(f.dir, "patch/HOLD"), nil, 0o644))
	const many = 60
	for i := range many {
		f.put(fmt.Sprint(i, ".zip"), packed(t, 300, "1"))
	}
	f.start("ulimit -n 60 && ")
	f.until("HOLD", func() bool { return strings.Contains(f.said(), "reason=hold") })
	f.must(os.Remove(filepath.Join(f.dir, "patch/HOLD")))
	for i := range many {
		f.ends(fmt.Sprint(i, ".zip"), "applied")
	}
}

// taking is an agent that takes in what is dropped, and has no process.
func (f *flood) taking(log io.Writer) *agent {
	f.t.Helper()
	cfg, err := config.Load(filepath.Join(f.dir, "agent.toml"))
	f.must(err)
	f.must(os.MkdirAll(cfg.State.Dir, 0o700))
	a := &agent{cfg: cfg, log: hclog.New(&hclog.LoggerOptions{Output: log}), waiting: map[string]string{}, crowds: map[string]int{}}
	a.folder = watcher.NewFolder(folderOptions(cfg, a.log))
	a.installed = record.Installed{Build: 200, Region: "r"}
	a.receipts, err = record.OpenReceipts(cfg.State.Dir)
	f.must(err)
	f.t.Cleanup(func() { a.receipts.Close() })
	return a
}

// TestRoomAgain: what is refused makes room, and no event is waited for.
func TestRoomAgain(t *testing.T) {
	f := newFlood(t, t.TempDir(), "[patch]\nmax_waiting = 1\npoll = \"1h\"")
	a := f.taking(io.Discard)
	for i := range 3 {
		f.put(fmt.Sprint(i, ".zip"), zipped(t))
	}
	for i := range 3 {
		if again := a.collect(t.Context()); (again == 0) != (i < 2) {
			t.Errorf("the %d. scan is followed by the next after %v", i+1, again)
		}
	}
	if n := len(f.receipts()); n != 3 {
		t.Errorf("%d receipts", n)
	}
	if !a.arrived.IsZero() {
		t.Error("patch.settle would be counted from what is refused")
	}
}

// TestUnreadCopy: what cannot be read for want of a descriptor, say, is not refused.
func TestUnreadCopy(t *testing.T) {
	f := newFlood(t, t.TempDir(), "[patch]\npatience = \"10m\"")
	var log bytes.Buffer
	a := f.taking(&log)
	f.put("a.zip", packed(t, 301, "a"))
	found, err := a.folder.Scan(t.Context())
	f.must(err)
	if len(found.Claims) != 1 {
		t.Fatalf("%+v", found)
	}
	// The copy is out of reach.
	copied := filepath.Join(a.cfg.State.Dir, claimsName, found.Claims[0].ID, "package.zip")
	f.must(os.Rename(copied, copied+".away"))
	a.receive(t.Context(), found.Claims[0])
	if len(a.unread) != 1 || len(a.endings) != 0 || len(a.queue) != 0 {
		t.Fatalf("%d unread, %d ended, %d in the queue", len(a.unread), len(a.endings), len(a.queue))
	}
	u := a.unread[0]
	if left := a.unreadFor(u.since); left.Minutes() != 10 {
		t.Errorf("the queue waits %v for it", left)
	}
	f.must(os.Rename(copied+".away", copied))
	if a.read(t.Context(), u) {
		t.Error("it is tried again at once")
	}
	u.next = u.since
	if !a.read(t.Context(), u) || len(a.queue) != 1 {
		t.Errorf("it is not in the queue:\n%s", log.String())
	}
	for _, p := range a.queue {
		p.close()
	}
	if n := strings.Count(log.String(), "cannot read the copy"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
