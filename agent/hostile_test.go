//go:build linux

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"patchagent/agent/record"
	"patchagent/manifest/hostile"
	"patchagent/manifest/reason"
)

// mostMemory is what an agent may have used that was given every hostile package;
// measured are 22 MiB.
const mostMemory = 48 << 20

// mostMemoryLarge is the same where the packages are as large as the limits allow;
// measured are 165 MiB.
const mostMemoryLarge = 256 << 20

// Every package that must be refused is refused, by an agent that gets them all and
// by inspect, with the code that says why. The tree, what is around it and the
// process stay as they are.
func TestHostilePackages(t *testing.T) {
	h := newHostileSite(t, fmt.Sprintf("max_unpacked = \"%dB\"\nmax_files = %d\nmax_ratio = %d\n", hostile.MaxUnpacked, hostile.MaxFiles, hostile.MaxRatio))
	before, process := h.everything(), h.pid()
	all := hostile.All()
	if testing.Short() {
		all = slices.Collect(everyThird(all))
	}
	zips := map[string]hostile.Package{}
	for i, p := range all {
		name := fmt.Sprintf("%03d.zip", i)
		zips[name] = p
		h.drop(name, p.Zip.Bytes())
	}
	outcomes := h.outcomes(len(all))
	for name, p := range zips {
		r := outcomes[name]
		if r.Outcome != reason.Rejected || r.Reason != p.Code {
			t.Errorf("%s: %s %s (%s), want %s", p.Name, r.Outcome, r.Reason, r.Detail, p.Code)
		}
		text, err := os.ReadFile(h.path("patch/rejected/" + name + ".reason.txt"))
		if want := fmt.Sprintf("%s\n%s\n%s\n%s was dropped, and has the receipt %s of %s.\n", p.Code, r.Detail, p.Code.Advice(), name, r.ID, r.Time.Format(time.RFC3339Nano)); err != nil || string(text) != want {
			t.Errorf("%s: beside it is %q, want %q", p.Name, text, want)
		}
		h.inspect(name, p)
	}
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("the tree or what is around it has changed (-before +after):\n%s", diff)
	}
	if now := h.pid(); now != process {
		t.Errorf("the process was %s and is %s", process, now)
	}
	if peak := h.peak(); peak > mostMemory && !raceEnabled {
		t.Errorf("the agent has used %d MiB", peak>>20)
	} else {
		t.Logf("%d packages; the agent has used %d MiB at most", len(all), peak>>20)
	}
}

// What is as large as the limits allow, and made to cost as much as it can, costs
// little memory all the same.
func TestLargestPackages(t *testing.T) {
	if testing.Short() {
		t.Skip("it packs some hundred megabytes")
	}
	h := newHostileSite(t, "max_ratio = 2000\n") // deflate does not reach that
	const files = 100_000 - 1                    // beside the manifest
	list := func(key, item string, n int) string {
		return `{"region": "r", "build": 1, "` + key + `": [` + strings.Repeat(item+",", n-1) + item + `]}`
	}
	dropped := 0
	for name, large := range map[string]struct {
		doc   string
		entry func(i int) string
		code  reason.Code
	}{
		"folders.zip": {`{}`, func(i int) string { return fmt.Sprintf("%05d/%sx", i, strings.Repeat("a/", 98)) }, reason.LimitExceeded},
		"glyphs.zip":  {`{}`, func(i int) string { return fmt.Sprintf("m/%s%d", strings.Repeat("\ufdfa", 65), i) }, reason.ManifestInvalid},
		"keys.zip":    {`{"region": "r"` + strings.Repeat(`,"`+strings.Repeat("\ufdfa", 21_000)+`":1`, 500) + `}`, nil, reason.ManifestInvalid},
		"names.zip":   {`{}`, func(i int) string { return fmt.Sprintf("new/%05d%s", i, strings.Repeat("ä", 90)) }, reason.ManifestInvalid},
		"numbers.zip": {list("x", "0", 16_000_000), nil, reason.LimitExceeded},
		"objects.zip": {list("x", "{}", 11_000_000), nil, reason.LimitExceeded},
		"items.zip":   {list("delfiles", `{"name":"a","path":"/"}`, 1_400_000), nil, reason.LimitExceeded},
		"item.zip":    {list("delfiles", `{"name":`+strings.Repeat("[0],", 700_000)+`0}`, 1), nil, reason.ManifestInvalid},
		"string.zip":  {`{"region": "` + strings.Repeat("a", 33_000_000) + `", "build": 1}`, nil, reason.LimitExceeded},
	} {
		h.packLarge(name, large.doc, files, large.entry)
		dropped++
		if r := h.outcomes(dropped)[name]; r.Reason != large.code {
			t.Errorf("%s: %s (%s), want %s", name, r.Reason, r.Detail, large.code)
		}
		t.Logf("%s: the agent has used %d MiB at most", name, h.peak()>>20)
	}
	if peak := h.peak(); peak > mostMemoryLarge {
		t.Errorf("the agent has used %d MiB", peak>>20)
	}
}

// Nor do many of them that wait.
func TestLargePackagesWait(t *testing.T) {
	if testing.Short() {
		t.Skip("it packs some hundred megabytes")
	}
	h := newHostileSite(t, "")
	toml, err := os.ReadFile(h.path("agent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("agent.toml", strings.Replace(string(toml), "[patch]\n", "[patch]\nmode = \"manual\"\n", 1))
	says := func(what string, times int) {
		t.Helper()
		if !inTime(t.Context(), func() bool { return strings.Count(h.log.String(), what) == times }) {
			t.Fatalf("the agent does not say %q %d times:\n%s", what, times, h.log.String())
		}
	}
	says("keys=patch.mode", 1)
	const files, waiting, most = 10_000, 12, 80 << 20
	var items strings.Builder
	for i := range files {
		fmt.Fprintf(&items, `%s{"name": "file-%d", "path": "/some/folder/or/other/"}`, strings.Repeat(",", min(i, 1)), i)
	}
	doc := `{"region": "r", "build": 300, "newfiles": [` + items.String() + `]}`
	for i := range waiting {
		h.packLarge(fmt.Sprintf("%d.zip", i), doc, files, func(i int) string { return fmt.Sprintf("new/file-%d", i) })
		says("patch.mode is manual", i+1)
	}
	if peak := h.peak(); peak > most {
		t.Errorf("the agent has used %d MiB", peak>>20)
	} else {
		t.Logf("the agent has used %d MiB at most", peak>>20)
	}
	// As many places as there may be, in as many folders, planned.
	const places, mostPlanned = 99_000, 450 << 20
	items.Reset()
	for i := range places {
		fmt.Fprintf(&items, `%s{"name": "f", "path": "/folder-%d/"}`, strings.Repeat(",", min(i, 1)), i)
	}
	h.packLarge("places.zip", `{"region": "r", "build": 300, "newfiles": [`+items.String()+`]}`, 1, func(int) string { return "new/f" })
	says("patch.mode is manual", waiting+1)
	if peak := h.peak(); peak > mostPlanned {
		t.Errorf("the agent has used %d MiB for a plan", peak>>20)
	} else {
		t.Logf("the agent has used %d MiB at most for a plan", peak>>20)
	}
}

// packLarge drops a zip with a manifest and that many empty files.
func (h *hostileSite) packLarge(name, doc string, files int, entry func(i int) string) {
	h.t.Helper()
	var zipped bytes.Buffer
	w := zip.NewWriter(&zipped)
	add := func(name string, method uint16, content string) {
		out, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err == nil {
			_, err = io.WriteString(out, content)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	add("manifest.json", zip.Deflate, doc)
	for i := 0; entry != nil && i < files; i++ {
		add(entry(i), zip.Store, "")
	}
	if err := w.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.drop(name, zipped.Bytes())
}

// outcomes waits until n drops have theirs.
func (h *hostileSite) outcomes(n int) map[string]record.Receipt {
	h.t.Helper()
	outcomes := map[string]record.Receipt{}
	if !inTime(h.t.Context(), func() bool {
		receipts, err := record.Read(h.path("own"))
		if err != nil {
			h.t.Fatal(err)
		}
		for _, r := range receipts {
			if _, twice := outcomes[r.Patch]; twice && outcomes[r.Patch].ID != r.ID {
				h.t.Fatalf("%s has two receipts", r.Patch)
			}
			outcomes[r.Patch] = r
		}
		return len(outcomes) >= n && isEmpty(h.path("own/claims"))
	}) {
		h.t.Fatalf("%d of %d have their outcome\n%s", len(outcomes), n, h.log.String())
	}
	return outcomes
}

func everyThird[T any](all []T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for i := 0; i < len(all) && yield(all[i]); i += 3 {
		}
	}
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// hostileSite is an agent on a tree, with something around it that must not be touched.
type hostileSite struct {
	t     *testing.T
	dir   string
	agent *exec.Cmd
	log   buffer
}

func newHostileSite(t *testing.T, verify string) *hostileSite {
	h := &hostileSite{t: t, dir: t.TempDir()}
	h.write("agent.toml", `region = "r"
[patch]
patience = "300ms"
poll = "20ms"
keep_rejected = 1000
[verify]
`+verify+`[state]
dir = "own"
[target]
root = "site/app"
command = ["service"]
`)
	h.write("site/app/version", "1")
	h.write("site/app/a", "the file that they would change")
	h.write("site/app/lib/b", "another")
	h.write("site/a", "beside the tree")
	h.write("a", "above it")
	if err := errors.Join(os.Mkdir(h.path("patch"), 0o755), os.Mkdir(h.path("kept"), 0o755), os.Link(h.path("site/a"), h.path("site/app/twin")),
		os.Symlink("../a", h.path("site/app/link")), os.Symlink("../..", h.path("site/app/up"))); err != nil {
		t.Fatal(err)
	}
	h.agent = exec.Command("patchagent", "-c", h.path("agent.toml"))
	h.agent.Stderr = &h.log
	// What it has used at most is about what it holds, and less about when garbage is
	// collected, which on a busy machine is late.
	h.agent.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "GOGC=25")
	if err := h.agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.agent.Process.Signal(os.Interrupt); _ = h.agent.Wait() })
	if !eventually(t.Context(), func() bool {
		said, err := os.ReadFile(h.path("site/app/service.log"))
		return err == nil && string(said) == "start 1\n"
	}) {
		t.Fatalf("the process did not start:\n%s", h.log.String())
	}
	return h
}

func (h *hostileSite) path(name string) string { return filepath.Join(h.dir, name) }

func (h *hostileSite) write(name, content string) {
	h.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(h.path(name)), 0o755), os.WriteFile(h.path(name), []byte(content), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// drop puts a zip into the folder, and before it its checksum; a copy stays outside.
func (h *hostileSite) drop(name string, data []byte) {
	h.t.Helper()
	sum, err := sumLine(bytes.NewReader(data), name)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, dir := range []string{"kept/", "patch/"} {
		h.write(dir+name+".sha256", sum)
		h.write(dir+name+".part", string(data))
		if err := os.Rename(h.path(dir+name+".part"), h.path(dir+name)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// everything is the tree and its surroundings, but for what belongs to the agent.
func (h *hostileSite) everything() map[string]string {
	h.t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(h.dir, path)
		if slices.Contains([]string{"own", "patch", "kept"}, name) {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		content := []byte(nil)
		switch {
		case d.Type() == fs.ModeSymlink:
			link, _ := os.Readlink(path)
			content = []byte(link)
		case d.Type().IsRegular():
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		all[name] = fmt.Sprintf("%o %d %d %q", st.Mode, st.Nlink, st.Ino, content)
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return all
}

func (h *hostileSite) pid() string {
	data, err := os.ReadFile(h.path("own/process.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(regexp.MustCompile(`"pid":\s*\d+`).Find(data))
}

// peak is the most memory that the agent has had, in bytes (proc(5), VmHWM).
func (h *hostileSite) peak() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.agent.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(data)
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return kib << 10
}

// inspect sees to it that the command says the same in one sentence, and what to do.
func (h *hostileSite) inspect(name string, p hostile.Package) {
	h.t.Helper()
	var out, errs bytes.Buffer
	zip := h.path("kept/" + name)
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	status := Run(ctx, []string{"inspect", "-c", h.path("agent.toml"), zip}, Program{In: strings.NewReader(""), Out: &out, Err: &errs})
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	says, advice := "", lines[len(lines)-1]
	if len(lines) > 1 {
		says = lines[len(lines)-2]
	}
	begin := zip + ": it would be rejected as " + string(p.Code) + ": "
	if status != exitRejected || errs.Len() > 0 || !strings.HasPrefix(says, begin) || len(says) < len(begin)+10 || advice != p.Code.Advice() {
		h.t.Errorf("inspect of %s: status %d\n%s%s", p.Name, status, out.String(), errs.String())
	}
}
