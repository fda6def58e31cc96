//go:build linux

package watcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"patchagent/manifest/reason"
)

// TestSidecars brings the files beside a drop in every order.
func TestSidecars(t *testing.T) {
	zip := schema1("sidecars")
	sum := sumLine("a.zip", zip)
	t.Run("first", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip.sha256", sum)
		s.nothing("a sidecar alone is no drop")
		s.put("a.zip", zip)
		if c := s.takes("both", zip); string(c.Sidecars.SHA256) != string(sum) {
			t.Errorf("claimed with %q", c.Sidecars.SHA256)
		}
	})
	t.Run("last", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip", zip)
		if found := s.waits("alone"); found.Again < time.Second {
			t.Errorf("an event will tell of the sidecar, and it asks for a look after %v", found.Again)
		}
		s.put("a.zip.sha256", sum)
		s.takes("both", zip)
	})
	t.Run("empty first", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip.sha256", nil)
		s.put("a.zip", zip)
		s.waits("an empty sidecar")
		s.put("a.zip.sha256", sum[:40])
		s.waits("half a sidecar")
		s.put("a.zip.sha256", sum)
		s.takes("all of it", zip)
	})
	t.Run("never finished", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip.sha256", sum[:40])
		s.put("a.zip", zip)
		s.waits("half a sidecar")
		s.now = s.now.Add(patience)
		s.takes("for the checks to refuse", zip)
	})
	t.Run("held open by its writer", func(t *testing.T) {
		s := newStage(t)
		f := s.open("a.zip.sha256", os.O_CREATE)
		s.write(f, sum, 0)
		s.put("a.zip", zip)
		for range 20 {
			if found := s.waits("open"); found.Again > time.Second {
				t.Fatalf("no event tells of a close, and it asks for a look only after %v", found.Again)
			}
		}
		s.must(f.Close())
		s.takes("closed", zip)
	})
}

// TestChecksumElsewhere: the other files that can hold a drop's checksum.
func TestChecksumElsewhere(t *testing.T) {
	zip := schema1("sidecars")
	sum := sumLine("a.zip", zip)
	for name, content := range map[string]string{
		"SHA256SUMS":    "# a list\n" + string(sumLine("b.zip", nil)) + string(sum),
		"checksums.txt": "12345 a.zip\n",
		"a.zip.crc32":   "12345\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.put("a.zip", zip)
			s.waits("alone")
			s.put(name, []byte(content))
			s.takes("with "+name, zip)
		})
	}
	t.Run("a list without a line for it", func(t *testing.T) {
		s := newStage(t)
		s.put("SHA256SUMS", sumLine("b.zip", zip))
		s.put("a.zip", zip)
		s.givesUp("not in the list", reason.ChecksumMissing)
	})
}

// TestNeeds is about what must be there beside a whole zip.
func TestNeeds(t *testing.T) {
	t.Run("digests inside are enough", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip", schema2("x"))
		s.takes("schema 2", schema2("x"))
	})
	t.Run("no checksum is asked for", func(t *testing.T) {
		s := newStage(t, func(o *Options) { o.NeedChecksum = false })
		s.put("a.zip", schema1("x"))
		s.takes("schema 1", schema1("x"))
	})
	t.Run("a signature", func(t *testing.T) {
		s := newStage(t, func(o *Options) { o.NeedSignature = true })
		s.put("a.zip", schema2("x"))
		s.waits("no signature")
		s.put("a.zip.minisig", nil)
		s.waits("an empty signature")
		s.put("a.zip.minisig", []byte("untrusted comment: x\n"))
		s.takes("a signature", schema2("x"))
	})
	t.Run("a signature that never comes", func(t *testing.T) {
		s := newStage(t, func(o *Options) { o.NeedSignature = true })
		s.put("a.zip", schema2("x"))
		s.givesUp("no signature", reason.SignatureMissing)
	})
}

// TestNotDrops fills the folder with what is not for the agent.
func TestNotDrops(t *testing.T) {
	s := newStage(t)
	zip := schema2("not a drop")
	for _, name := range []string{
		".a.zip", ".zip", "a.zip.part", "a.zip.filepart", "a.zip.tmp", "a.zip.crdownload", "a.zip~", "A.ZIP.PART",
		"a.txt", "zip", "azip", "a.zip.sha256", "a.zip.bak", "README", "HOLD.txt",
	} {
		s.put(name, zip)
	}
	s.must(os.Mkdir(s.path("folder.zip"), 0o755))
	s.must(os.WriteFile(s.path("folder.zip/a.zip"), zip, 0o644))
	s.must(os.Symlink("README", s.path("link.zip")))
	s.must(os.Symlink("nowhere", s.path("dangling.zip")))
	s.must(unix.Mkfifo(s.path("fifo.zip"), 0o644))
	for range 3 {
		s.nothing("nothing of this is a drop")
		s.now = s.now.Add(patience)
	}
	for _, name := range []string{"B.ZIP", "b c.zip", "-rf.zip", "ü.Zip"} {
		s.put(name, zip)
	}
	var names []string
	for _, c := range s.scan().Claims {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"-rf.zip", "B.ZIP", "b c.zip", "ü.Zip"}, names); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}
}

// TestOddSidecars makes sure that what is beside a drop can neither block nor mislead.
func TestOddSidecars(t *testing.T) {
	s := newStage(t)
	zip := schema2("odd")
	s.must(unix.Mkfifo(s.path("a.zip.sha256"), 0o644))
	s.must(os.Mkdir(s.path("a.zip.crc32"), 0o755))
	s.must(os.Symlink("/etc/hostname", s.path("a.zip.minisig")))
	s.put("a.zip", zip)
	c := s.takes("odd things beside it", zip)
	if c.Sidecars.SHA256 != nil || c.Sidecars.CRC32 != nil || c.Sidecars.Minisig != nil {
		t.Errorf("claimed with %+v", c.Sidecars)
	}
	if got := s.putAway(c, applied); got != "applied/300_a.zip" {
		t.Errorf("put away as %s", got)
	}
}

// TestIgnored: what somebody may wait for in vain is named, and what belongs in the
// folder or is on its way is not.
func TestIgnored(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{
		"HOLD", "SHA256SUMS", "checksums.txt", "a.zip.sha256", "B.ZIP.crc32", "c.zip.minisig", ".hidden.tar", "d.zip.part", "e.filepart", "f.TMP", "g.crdownload", "h.txt~",
	} {
		s.put(name, nil)
	}
	for _, folder := range []string{"applied", "rejected", ".x"} {
		s.must(os.Mkdir(s.path(folder), 0o755))
	}
	if found := s.scan(); len(found.Ignored)+found.MoreIgnored > 0 {
		t.Errorf("named: %+v", found.Ignored)
	}
	want := map[string]string{
		"fix.tar.gz": "its name does not end in .zip", "fix.sha256": "NAME.zip.sha256", "sub": "it is a folder", "sub.zip": "it is a folder",
		"link.zip": "it is a link", "pipe.zip": "no regular file", "hold": "does not end in .zip",
	}
	s.put("fix.tar.gz", nil)
	s.put("fix.sha256", nil)
	s.put("hold", nil)
	s.must(errors.Join(os.Mkdir(s.path("sub"), 0o755), os.Mkdir(s.path("sub.zip"), 0o755), os.Symlink("a.zip", s.path("link.zip")), unix.Mkfifo(s.path("pipe.zip"), 0o644)))
	found := s.scan()
	for _, i := range found.Ignored {
		if !strings.Contains(i.Why, want[i.Name]) || want[i.Name] == "" {
			t.Errorf("%s: %s", i.Name, i.Why)
		}
	}
	if len(found.Ignored) != len(want) || found.MoreIgnored > 0 {
		t.Errorf("%d are named: %+v", len(found.Ignored), found)
	}
	for i := range 2 * maxIgnored {
		s.put(fmt.Sprint("junk-", i), nil)
	}
	if found := s.scan(); len(found.Ignored) != maxIgnored || found.MoreIgnored != len(want)+maxIgnored {
		t.Errorf("of many %d are named, and %d more", len(found.Ignored), found.MoreIgnored)
	}
}

// The sidecars of a drop are those whose endings are known.
func TestOwnEndings(t *testing.T) {
	if diff := cmp.Diff(slices.Sorted(maps.Keys(new(Sidecars).own())), slices.Sorted(slices.Values(ownEndings))); diff != "" {
		t.Error(diff)
	}
}

// TestHold pauses what is there and what comes.
func TestHold(t *testing.T) {
	s := newStage(t)
	zip := schema2("hold")
	s.put("a.zip", zip)
	first := s.takes("before HOLD", zip)
	s.put(HoldName, nil)
	s.put("b.zip", zip)
	s.put("c.zip", zip[:100])
	for range 3 {
		found := s.scan()
		slices.Sort(found.Held)
		if diff := cmp.Diff(Found{Hold: true, Held: []string{"a.zip", "b.zip", "c.zip"}}, found); diff != "" {
			t.Errorf("held (-want +got):\n%s", diff)
		}
		s.now = s.now.Add(patience)
	}
	s.must(os.Remove(s.path("a.zip")))
	if found := s.scan(); len(found.Gone) != 1 || found.Gone[0] != first {
		t.Errorf("withdrawn while held: %+v", found)
	}
	s.must(s.Release(first))
	s.must(os.Remove(s.path(HoldName)))
	found := s.scan()
	if len(found.Claims) != 1 || found.Claims[0].Name != "b.zip" || len(found.Waiting) != 1 || found.Waiting[0].Name != "c.zip" {
		t.Errorf("after HOLD: %+v", found)
	}
}

// TestGone withdraws a drop by removing it.
func TestGone(t *testing.T) {
	s := newStage(t)
	zip := schema2("gone")
	s.put("a.zip", zip)
	c := s.takes("a drop", zip)
	s.nothing("while it is there")
	s.must(os.Remove(s.path("a.zip")))
	for range 2 {
		if found := s.scan(); len(found.Gone) != 1 || found.Gone[0] != c {
			t.Fatalf("found %+v", found)
		}
	}
	s.must(s.Release(c))
	s.nothing("once it is released")
	if left := s.left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	s.put("a.zip", zip)
	s.takes("it is back", zip)
}

// TestTouch sets a file's time after it was claimed, as some clients do.
func TestTouch(t *testing.T) {
	s := newStage(t)
	zip := schema2("touch")
	s.put("a.zip", zip)
	c := s.takes("a drop", zip)
	s.must(os.Chtimes(s.path("a.zip"), time.Time{}, time.Unix(1, 0)))
	s.nothing("touched")
	claims := s.restart()
	if len(claims) != 1 || claims[0].ID != c.ID {
		t.Fatalf("resumed: %+v", claims)
	}
	s.nothing("touched, after a restart")
	s.must(os.Chtimes(s.path("a.zip"), time.Time{}, time.Unix(2, 0)))
	if got := s.putAway(claims[0], applied); got != "applied/300_a.zip" {
		t.Errorf("put away as %s", got)
	}
	s.nothing("put away")
	if got := s.tree(); len(got) != 1 {
		t.Errorf("in the folder: %d files", len(got))
	}
}

// TestChangeDuringTheLook writes to the file at the worst moment: after it has been
// found whole.
func TestChangeDuringTheLook(t *testing.T) {
	zip, newer := schema2("before"), schema2("after, and longer")
	var writer *os.File
	for what, change := range map[string]func(path string) error{
		"written over": func(path string) error { return os.WriteFile(path, newer, 0o644) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", newer, 0o644), os.Rename(path+".new", path))
		},
		"opened by a writer": func(path string) (err error) { writer, err = os.OpenFile(path, os.O_WRONLY, 0); return err },
		"a second name":      func(path string) error { return os.Link(path, path+".other") },
		"removed":            os.Remove,
		"moved away": func(path string) error {
			return errors.Join(os.Rename(path, path+".other"), os.Link(path+".other", path+".x"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			examine := s.opts.Examine
			once := true
			s.opts.Examine = func(r io.ReaderAt, size int64) (Shape, error) {
				shape, err := examine(r, size)
				if once {
					once = false
					s.must(change(s.path("a.zip")))
				}
				return shape, err
			}
			s.Configure(s.opts)
			s.put("a.zip", zip)
			if found := s.waits(what); found.Again > 10*time.Millisecond {
				t.Errorf("it asks for the next look after %v", found.Again)
			}
			if left := s.left(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			switch what {
			case "written over", "replaced":
				s.takes("afterwards", newer)
			case "opened by a writer":
				s.must(writer.Close())
				s.takes("afterwards", zip)
			case "a second name":
				s.must(os.Remove(s.path("a.zip.other")))
				s.takes("afterwards", zip)
			default:
				s.nothing("afterwards")
			}
		})
	}
}

// TestSameTime: a file is written to within one tick of the file system's clock, so
// that nothing but its content tells.
func TestSameTime(t *testing.T) {
	s := newStage(t)
	zip := schema2("x")
	tick := time.Unix(1e9, 0)
	for _, content := range [][]byte{make([]byte, len(zip)), zip} {
		s.must(os.WriteFile(s.path("a.zip"), content, 0o644))
		s.must(os.Chtimes(s.path("a.zip"), tick, tick))
		if content[0] == 0 {
			s.waits("zeros")
		}
	}
	s.now = s.now.Add(time.Second)
	s.takes("whole", zip)
}

// TestStaleSidecar: the next drop of a name is not measured by the sidecar of the
// one before, which waits for its turn.
func TestStaleSidecar(t *testing.T) {
	s := newStage(t)
	older, newer := schema1("old"), schema1("new")
	s.drop("a.zip", older)
	first := s.takes("the older", older)
	s.put("a.zip", newer)
	s.waits("its own sidecar is still to come")
	s.put("a.zip.sha256", sumLine("a.zip", newer))
	second := s.takes("with its own sidecar", newer)
	s.putAway(first, applied)
	s.putAway(second, applied)
	want := map[string]string{
		"applied/300_a.zip": string(older), "applied/300_a.zip.sha256": string(sumLine("a.zip", older)),
		"applied/300_a-2.zip": string(newer), "applied/300_a-2.zip.sha256": string(sumLine("a.zip", newer)),
	}
	if diff := cmp.Diff(want, s.tree()); diff != "" {
		t.Errorf("put away (-want +got):\n%s", diff)
	}
}

// TestScanEnds: a scan that is told to end takes nothing more and leaves nothing.
func TestScanEnds(t *testing.T) {
	s := newStage(t)
	s.put("a.zip", schema2("x"))
	ctx, cancel := context.WithCancel(t.Context())
	examine := s.opts.Examine
	s.opts.Examine = func(r io.ReaderAt, size int64) (Shape, error) {
		cancel()
		return examine(r, size)
	}
	s.Configure(s.opts)
	if found, err := s.Scan(ctx); err != nil || len(found.Claims) != 0 || len(s.left()) != 0 {
		t.Errorf("found %+v, error %v, left %v", found, err, s.left())
	}
	s.takes("the next run", schema2("x"))
}

// TestWhatItWaitsFor: what is missing is said as it changes, so that somebody who waits
// for the end of a copy is not told of that when the checksum is what is missing.
func TestWhatItWaitsFor(t *testing.T) {
	s := newStage(t, func(o *Options) { o.NeedChecksum = true })
	content := schema1("x")
	writer := s.open("a.zip", os.O_WRONLY|os.O_CREATE)
	s.write(writer, content[:50], 0)
	s.waitsFor(s.scan(), "a.zip", NotWhole)
	s.write(writer, content[50:], 50)
	s.must(writer.Close())
	s.waitsFor(s.scan(), "a.zip", NoProof)
	s.must(os.WriteFile(s.path("a.zip.sha256"), []byte("hello\n"), 0o644))
	s.waitsFor(s.scan(), "a.zip", NoProof)
}

// TestLooksAreRare: where the system cannot tell whether somebody writes, all bytes are
// looked at; of what is not sound that takes a part of the time only.
func TestLooksAreRare(t *testing.T) {
	looks := 0
	var s *stage
	s = newStage(t, func(o *Options) {
		o.Verify = func(context.Context, io.ReaderAt, int64, Sidecars) error {
			looks++
			s.now = s.now.Add(time.Second)
			return errors.New("a byte is wrong")
		}
	})
	h := new(history)
	began := s.now
	for range 1000 {
		if s.verified(t.Context(), nil, Sidecars{}, h, 0) {
			t.Fatal("it is sound")
		}
		s.now = s.now.Add(100 * time.Millisecond)
	}
	if most := int(s.now.Sub(began)/time.Second)/restLooks + 1; looks < 5 || looks > most {
		t.Errorf("%d looks of a second each in %s", looks, s.now.Sub(began))
	}
}

// TestOpenToAll: a folder that everybody can write to is not looked into, until that is
// mended.
func TestOpenToAll(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("modes mean something else here")
	}
	s := newStage(t)
	s.put("a.zip", schema2("x"))
	s.must(os.Chmod(s.dir, 0o777))
	if found, err := s.Scan(t.Context()); err == nil || !strings.Contains(err.Error(), "chmod o-w "+s.dir) || len(found.Claims) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
	s.must(os.Chmod(s.dir, 0o775))
	s.takes("mended", schema2("x"))
}

// TestNoFolder: the folder is missing, or is not one.
func TestNoFolder(t *testing.T) {
	s := newStage(t)
	s.must(os.Remove(s.dir))
	for what, make := range map[string]func() error{
		"missing": func() error { return nil },
		"a link":  func() error { return os.Symlink(t.TempDir(), s.dir) },
		"a file":  func() error { return os.WriteFile(s.dir, nil, 0o644) },
	} {
		s.must(make())
		if _, err := s.Scan(t.Context()); err == nil || !strings.Contains(err.Error(), filepath.Base(s.dir)) {
			t.Errorf("%s: error %v", what, err)
		}
		_ = os.Remove(s.dir)
	}
}
