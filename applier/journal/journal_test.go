package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/manifest/reason"
)

var plan = Plan{
	ID: "1", Patch: "p.zip", Warm: true, Build: 300, FromBuild: 200, Exchange: true,
	Steps: []Step{
		{Kind: StepMkdir, Path: "work/new"},
		{Kind: StepReplace, Path: "work/a", Stage: "000001", Old: &Object{Mode: 0o644, Size: 3, SHA256: "aa"}, New: &Object{Mode: 0o644, Size: 4, SHA256: "bb"}},
	},
	Counts: Counts{Modified: 1, Bytes: 4},
}

// written makes a journal that has come through the entries.
func written(t *testing.T, entries ...Entry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	d, err := NewDraft(path, plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a draft counts already: %v", err)
	}
	j, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, e := range entries {
		if err := j.Enter(e); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestReadsBackWhatWasPromised(t *testing.T) {
	path := written(t, Entry{State: Committed}, Entry{State: Undoing, Code: reason.ReloadFailed, Detail: "it did not listen"})
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	want := plan
	want.Version = Version
	if diff := cmp.Diff(want, j.Plan); diff != "" {
		t.Error(diff)
	}
	if j.Last.State != Undoing || j.Last.Code != reason.ReloadFailed || j.Last.Detail != "it did not listen" {
		t.Errorf("last entry: %+v", j.Last)
	}
	if err := j.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// A crash can end the last write after any byte; what is read then is the state
// before it, and the next entry follows cleanly.
func TestTornLastLineWasNeverPromised(t *testing.T) {
	before, err := os.ReadFile(written(t))
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(written(t, Entry{State: Committed}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	for n := len(before); n <= len(after); n++ {
		if err := os.WriteFile(path, after[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := Prepared
		if n == len(after) {
			want = Committed
		}
		j, err := Open(path)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if j.Last.State != want {
			t.Fatalf("%d bytes: state %s, want %s", n, j.Last.State, want)
		}
		if err := j.Enter(Entry{State: Undoing}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if j, err = Open(path); err != nil || j.Last.State != Undoing {
			t.Fatalf("%d bytes, then an entry: %v", n, err)
		}
		j.Close()
	}
}

func TestDamageIsSaidNotGuessed(t *testing.T) {
	whole, err := os.ReadFile(written(t, Entry{State: Committed}))
	if err != nil {
		t.Fatal(err)
	}
	text := string(whole)
	for name, damaged := range map[string]string{
		"empty":                  "",
		"a bit of the plan":      strings.Replace(text, "work/a", "work/b", 1),
		"a bit of an entry":      strings.Replace(text, "committed", "committee", 1),
		"a checksum":             "x" + text[1:],
		"no checksum":            "{}\n" + text,
		"the plan's end is gone": text[:20],
		"another file":           "hello\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want ErrDamaged that names the file", err)
			}
			if now, _ := os.ReadFile(path); string(now) != damaged {
				t.Error("the damaged journal was changed")
			}
		})
	}
}

func TestAnotherVersionIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	later := plan
	later.Version = Version + 1
	line, err := encode(later)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, line, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "another version") {
		t.Errorf("error %v", err)
	}
}

func TestLongDetailFitsIntoWhatWasSetAside(t *testing.T) {
	path := written(t, Entry{State: Undoing, Detail: strings.Repeat("\x01", 1<<20), Output: strings.Repeat("\x01", 1<<20)})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	line, err := encode(plan)
	if err != nil {
		t.Fatal(err)
	}
	if extra := info.Size() - int64(len(line)); 2*extra > entrySpace {
		t.Errorf("two entries take %d bytes, %d are set aside", 2*extra, entrySpace)
	}
}

func TestWriteFileLeavesTheOldFileWhenItFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".new", 0o700); err != nil { // in the way of the temporary file
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Fatal("no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}
