//go:build linux

package watcher

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"patchagent/manifest/reason"
)

func (s *stage) wants(want map[string]string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.tree()); diff != "" {
		s.t.Errorf("in the patch folder (-want +got):\n%s", diff)
	}
}

const reasonText = "wrong-region\nIt is for India.\nSend it there.\n"

// TestPlace puts drops away: where to, what goes along, what stays.
func TestPlace(t *testing.T) {
	zip := schema1("place")
	sum := string(sumLine("a.zip", zip))
	t.Run("applied, with its sidecars", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip.crc32", []byte("12345\n"))
		s.put("a.zip.minisig", []byte("signed"))
		s.put("SHA256SUMS", []byte(sum))
		s.put("checksums.txt", []byte(sum))
		s.drop("a.zip", zip)
		if got := s.putAway(s.takes("a drop", zip), applied); got != "applied/300_a.zip" {
			t.Errorf("placed as %s", got)
		}
		s.wants(map[string]string{
			"SHA256SUMS": sum, "checksums.txt": sum, "applied/300_a.zip": string(zip), "applied/300_a.zip.sha256": sum,
			"applied/300_a.zip.crc32": "12345\n", "applied/300_a.zip.minisig": "signed",
		})
		if left := s.left(); len(left) != 0 {
			t.Errorf("claims left: %v", left)
		}
		s.nothing("put away")
	})
	t.Run("rejected, with the reason", func(t *testing.T) {
		s := newStage(t)
		s.drop("a.zip", zip)
		if got := s.putAway(s.takes("a drop", zip), rejected); got != "rejected/a.zip" {
			t.Errorf("placed as %s", got)
		}
		s.wants(map[string]string{"rejected/a.zip": string(zip), "rejected/a.zip.sha256": sum, "rejected/a.zip.reason.txt": reasonText})
	})
	t.Run("given up", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip.sha256", []byte(sum))
		s.put("a.zip", zip[:50])
		s.putAway(s.givesUp("half", reason.Incomplete), rejected)
		s.wants(map[string]string{"rejected/a.zip": string(zip[:50]), "rejected/a.zip.sha256": sum, "rejected/a.zip.reason.txt": reasonText})
	})
}

// TestPlaceUnusual puts away what is not just a drop in its folder.
func TestPlaceUnusual(t *testing.T) {
	zip := schema1("place")
	sum := string(sumLine("a.zip", zip))
	t.Run("given up, then removed", func(t *testing.T) {
		s := newStage(t)
		s.put("a.zip", zip[:50])
		c := s.givesUp("half", reason.Incomplete)
		s.must(os.Remove(s.path("a.zip")))
		s.putAway(c, rejected)
		s.wants(map[string]string{"rejected/a.zip.reason.txt": reasonText})
	})
	t.Run("the same name three times", func(t *testing.T) {
		s := newStage(t)
		for _, want := range []string{"applied/300_a.zip", "applied/300_a-2.zip", "applied/300_a-3.zip"} {
			s.drop("a.zip", zip)
			if got := s.putAway(s.takes(want, zip), applied); got != want {
				t.Errorf("placed as %s, want %s", got, want)
			}
		}
	})
	t.Run("its reason's name is taken", func(t *testing.T) {
		s := newStage(t)
		s.must(os.Mkdir(s.path("rejected"), 0o755))
		s.put("rejected/A.b.ZIP.reason.txt", nil)
		s.put("A.b.ZIP", schema2("x"))
		if got := s.putAway(s.takes("a drop", schema2("x")), rejected); got != "rejected/A.b-2.ZIP" {
			t.Errorf("placed as %s", got)
		}
	})
	t.Run("the original is gone", func(t *testing.T) {
		s := newStage(t)
		s.drop("a.zip", zip)
		c := s.takes("a drop", zip)
		s.must(os.Remove(s.path("a.zip")))
		s.must(os.Remove(s.path("a.zip.sha256")))
		s.putAway(c, applied)
		s.wants(map[string]string{"applied/300_a.zip": string(zip), "applied/300_a.zip.sha256": sum})
	})
	t.Run("known from the journal only", func(t *testing.T) {
		s := newStage(t)
		c := &Claim{ID: "x", Name: "a.zip"}
		if path, err := s.Place(c, applied); path != "" || err != nil {
			t.Errorf("placed as %q, error %v", path, err)
		}
		s.must(s.Release(c))
		s.wants(map[string]string{})
	})
}

// TestPlaceLongName: with the build before it and the reason's ending behind it the
// name would be longer than a file system takes.
func TestPlaceLongName(t *testing.T) {
	s := newStage(t)
	name := strings.Repeat("ü", 125) + "b.zip"
	for range 2 {
		s.put(name, schema2("x"))
		first := s.putAway(s.takes("a long name", schema2("x")), rejected)
		if !strings.HasSuffix(first, ".zip") || strings.ToValidUTF8(first, "?") != first {
			t.Errorf("placed as %s", first)
		}
		if _, err := os.Stat(s.path(first) + reasonEnding); err != nil {
			t.Error(err)
		}
	}
	s.put(name, schema2("x"))
	if got := s.putAway(s.takes("a long name", schema2("x")), applied); !strings.HasPrefix(got, "applied/300_ü") {
		t.Errorf("placed as %s", got)
	}
	if got := s.tree(); len(got) != 5 {
		t.Errorf("%d files, want 5", len(got))
	}
}

// TestPlaceWithNewDrop: something of a new drop of the same name is already there.
func TestPlaceWithNewDrop(t *testing.T) {
	older, newer := schema1("older"), schema1("newer")
	olderSum, newerSum := string(sumLine("a.zip", older)), string(sumLine("a.zip", newer))
	for what, tc := range map[string]struct {
		arrive func(s *stage)
		want   map[string]string // beside what is put away
		takes  []byte            // by the next scan, once all is there
	}{
		"its sidecar came first": {
			func(s *stage) { s.put("a.zip.sha256", []byte(newerSum)) },
			map[string]string{"a.zip.sha256": newerSum}, nil,
		},
		"both came": {
			func(s *stage) { s.drop("a.zip", newer) },
			map[string]string{"a.zip.sha256": newerSum, "a.zip": string(newer)}, newer,
		},
		"the zip came, written over the older": {
			func(s *stage) { s.must(os.WriteFile(s.path("a.zip"), newer, 0o644)) },
			map[string]string{"a.zip": string(newer)}, nil,
		},
		"the same came again": {
			func(s *stage) { s.put("a.zip", older) },
			map[string]string{"a.zip": string(older), "a.zip.sha256": olderSum}, older,
		},
		"a fifo came": {
			func(s *stage) {
				s.must(os.Remove(s.path("a.zip.sha256")))
				s.must(unix.Mkfifo(s.path("a.zip.sha256"), 0o644))
			}, map[string]string{}, nil,
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			s.drop("a.zip", older)
			c := s.takes("the older", older)
			tc.arrive(s)
			s.putAway(c, applied)
			if what == "a fifo came" {
				s.must(os.Remove(s.path("a.zip.sha256")))
			}
			tc.want["applied/300_a.zip"], tc.want["applied/300_a.zip.sha256"] = string(older), olderSum
			s.wants(tc.want)
			if tc.takes != nil {
				s.takes("the newer", tc.takes)
			}
		})
	}
}

// TestLateSidecar travels along although the drop was taken without it.
func TestLateSidecar(t *testing.T) {
	s := newStage(t)
	zip := schema2("late")
	s.put("a.zip", zip)
	c := s.takes("digests inside", zip)
	s.put("a.zip.sha256", sumLine("a.zip", zip))
	s.putAway(c, applied)
	s.wants(map[string]string{"applied/300_a.zip": string(zip), "applied/300_a.zip.sha256": string(sumLine("a.zip", zip))})
}

// TestPlaceAfterInterruption begins with what a crash leaves at each step.
func TestPlaceAfterInterruption(t *testing.T) {
	zip := schema1("interrupted")
	sum := string(sumLine("a.zip", zip))
	caught := func(s *stage, c *Claim) string { return s.path(".placing-" + c.ID) }
	chosen := func(s *stage, c *Claim) {
		s.must(os.Mkdir(s.path("rejected"), 0o755))
		c.place = filepath.Join("rejected", "a.zip")
		s.must(c.Save(false))
	}
	for what, crash := range map[string]func(s *stage, c *Claim){
		"before anything": func(*stage, *Claim) {},
		"caught":          func(s *stage, c *Claim) { s.must(os.Rename(s.path("a.zip"), caught(s, c))) },
		"the place chosen": func(s *stage, c *Claim) {
			s.must(os.Rename(s.path("a.zip"), caught(s, c)))
			chosen(s, c)
		},
		"moved": func(s *stage, c *Claim) {
			chosen(s, c)
			s.must(os.Rename(s.path("a.zip"), s.path("rejected/a.zip")))
		},
		"moved, and both names left": func(s *stage, c *Claim) {
			s.must(os.Rename(s.path("a.zip"), caught(s, c)))
			chosen(s, c)
			s.must(os.Link(caught(s, c), s.path("rejected/a.zip")))
		},
		"moved with its sidecar": func(s *stage, c *Claim) {
			chosen(s, c)
			s.must(os.Rename(s.path("a.zip"), s.path("rejected/a.zip")))
			s.must(os.Rename(s.path("a.zip.sha256"), s.path("rejected/a.zip.sha256")))
		},
		"not released": func(s *stage, c *Claim) { s.place(c, rejected) },
		"no original, the copy torn": func(s *stage, c *Claim) {
			s.must(os.Remove(s.path("a.zip")))
			s.must(os.WriteFile(caught(s, c)+".part", zip[:100], 0o644))
		},
		"no original, the copy there": func(s *stage, c *Claim) {
			s.must(os.WriteFile(caught(s, c), zip, 0o644))
			s.must(os.Remove(s.path("a.zip")))
		},
		"no original, the copy in its place": func(s *stage, c *Claim) {
			chosen(s, c)
			s.must(os.WriteFile(s.path("rejected/a.zip"), zip, 0o644))
			s.must(os.Remove(s.path("a.zip")))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			s.drop("a.zip", zip)
			crash(s, s.takes("a drop", zip))
			claims := s.restart()
			if len(claims) != 1 {
				t.Fatalf("resumed %d claims", len(claims))
			}
			for range 2 {
				if got := s.place(claims[0], rejected); got != "rejected/a.zip" {
					t.Errorf("placed as %s", got)
				}
			}
			s.must(s.Release(claims[0]))
			s.wants(map[string]string{"rejected/a.zip": string(zip), "rejected/a.zip.sha256": sum, "rejected/a.zip.reason.txt": reasonText})
			s.nothing("put away")
		})
	}
}

// TestPlaceCatchesAnother: a new drop was renamed over the older one in the instant
// in which that was to be caught, and then the agent was interrupted. It goes back.
func TestPlaceCatchesAnother(t *testing.T) {
	older, newer := schema2("older"), schema2("newer")
	s := newStage(t)
	s.put("a.zip", older)
	c := s.takes("the older", older)
	s.put(".placing-"+c.ID, newer)
	s.must(os.Remove(s.path("a.zip")))
	claims := s.restart()
	s.putAway(claims[0], applied)
	s.wants(map[string]string{"applied/300_a.zip": string(older), "a.zip": string(newer)})
	s.takes("the newer", newer)
}

// TestPlaceTaken: somebody has taken the chosen place in the meantime.
func TestPlaceTaken(t *testing.T) {
	s := newStage(t)
	zip := schema2("x")
	s.put("a.zip", zip)
	c := s.takes("a drop", zip)
	s.must(os.Mkdir(s.path("applied"), 0o755))
	s.put("applied/300_a.zip", []byte("another"))
	c.place = filepath.Join("applied", "300_a.zip")
	if got := s.putAway(c, applied); got != "applied/300_a-2.zip" {
		t.Errorf("placed as %s", got)
	}
	s.wants(map[string]string{"applied/300_a.zip": "another", "applied/300_a-2.zip": string(zip)})
}

// Whatever links others put into the patch folder, nothing outside of it is written,
// and nothing is lost.
func TestPlaceFollowsNoLinks(t *testing.T) {
	zip := schema1("place")
	sum := string(sumLine("a.zip", zip))
	outside := func(s *stage) string {
		dir := s.t.TempDir()
		s.must(os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600))
		return dir
	}
	unchanged := func(s *stage, dir string) {
		s.t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "file"))
		all, _ := os.ReadDir(dir)
		if err != nil || string(data) != "precious" || len(all) != 1 {
			s.t.Errorf("outside: %q, %v, %v", data, all, err)
		}
	}
	want := map[string]string{"rejected/a.zip": string(zip), "rejected/a.zip.sha256": sum, "rejected/a.zip.reason.txt": reasonText}
	t.Run("the folder", func(t *testing.T) {
		s := newStage(t)
		dir := outside(s)
		s.drop("a.zip", zip)
		c := s.takes("a drop", zip)
		// One into the patch folder would make a new drop of it, again and again.
		for _, to := range []string{dir, ".", "applied", "nowhere", "../" + filepath.Base(s.dir)} {
			s.must(os.Symlink(to, s.path("rejected")))
			if _, err := s.Place(c, rejected); err == nil || !strings.Contains(err.Error(), "must be a folder of its own, and no link") {
				t.Errorf("to %s: %v", to, err)
			}
			s.must(os.Remove(s.path("rejected")))
		}
		unchanged(s, dir)
		s.putAway(c, rejected)
		s.wants(want)
	})
	t.Run("the names that are written", func(t *testing.T) {
		s := newStage(t)
		dir := outside(s)
		s.drop("a.zip", zip)
		c := s.takes("a drop", zip)
		c.place = "rejected/a.zip" // it was chosen, and then somebody was quick
		s.must(os.Mkdir(s.path("rejected"), 0o755))
		for _, name := range []string{"rejected/a.zip.reason.txt", ".placing-" + c.ID + ".part", ".placing-" + c.ID + ".txt"} {
			s.must(os.Symlink(filepath.Join(dir, "file"), s.path(name)))
		}
		s.must(os.Remove(s.path("a.zip"))) // so that the copy is written
		s.must(os.Remove(s.path("a.zip.sha256")))
		s.putAway(c, rejected)
		unchanged(s, dir)
		s.wants(want)
	})
	t.Run("the patch folder", func(t *testing.T) {
		s := newStage(t)
		s.drop("a.zip", zip)
		c := s.takes("a drop", zip)
		dir := outside(s)
		s.must(os.Rename(s.opts.Dir, s.opts.Dir+".away"))
		s.must(os.Symlink(dir, s.opts.Dir))
		if _, err := s.Place(c, rejected); err == nil || !strings.Contains(err.Error(), "is a link") {
			t.Errorf("%v", err)
		}
		unchanged(s, dir)
	})
}

// A sidecar that is a second name of some file is not read.
func TestLinkedSidecar(t *testing.T) {
	zip := schema1("linked")
	s := newStage(t)
	secret := filepath.Join(filepath.Dir(s.opts.Dir), "secret")
	s.must(os.WriteFile(secret, sumLine("a.zip", zip), 0o600))
	s.must(os.Link(secret, s.path("a.zip.sha256")))
	s.put("a.zip", zip)
	s.waits("the sidecar has two names")
	s.must(os.Remove(secret))
	s.takes("it has one", zip)
}

// TestPlaceFails and is tried again.
func TestPlaceFails(t *testing.T) {
	s := newStage(t)
	zip := schema2("x")
	s.put("a.zip", zip)
	c := s.takes("a drop", zip)
	s.put("applied", []byte("a file where the folder should be"))
	for range 2 {
		if _, err := s.Place(c, applied); err == nil || !strings.Contains(err.Error(), "a.zip") {
			t.Fatalf("error %v", err)
		}
		s.nothing("it has its outcome, and is tried again")
	}
	s.must(os.Remove(s.path("applied")))
	if got := s.putAway(c, applied); got != "applied/300_a.zip" {
		t.Errorf("placed as %s", got)
	}
}

// TestOtherFilesystem has the patch folder and the claims on two.
func TestOtherFilesystem(t *testing.T) {
	var shm, tmp unix.Stat_t
	if unix.Stat("/dev/shm", &shm) != nil || unix.Stat(t.TempDir(), &tmp) != nil || shm.Dev == tmp.Dev {
		t.Skip("there is no other filesystem here")
	}
	dir, err := os.MkdirTemp("/dev/shm", "patch-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := newStage(t, func(o *Options) { o.Dir = dir })
	s.dir = dir
	zip := schema1("far away")
	for _, want := range []string{"applied/300_a.zip", "applied/300_a-2.zip"} {
		s.drop("a.zip", zip)
		c := s.takes("a drop", zip)
		if want == "applied/300_a-2.zip" {
			s.must(os.Remove(s.path("a.zip")))
		}
		if got := s.putAway(c, applied); got != want {
			t.Errorf("placed as %s, want %s", got, want)
		}
	}
	sum := string(sumLine("a.zip", zip))
	s.wants(map[string]string{
		"applied/300_a.zip": string(zip), "applied/300_a-2.zip": string(zip),
		"applied/300_a.zip.sha256": sum, "applied/300_a-2.zip.sha256": sum,
	})
}

// Somebody puts another folder in the place of rejected/ while a drop goes there: it ends
// up in the one that was opened, and the agent does not try for ever.
func TestPlaceInASwappedFolder(t *testing.T) {
	zip := schema2("x")
	s := newStage(t)
	s.put("a.zip", zip)
	c := s.takes("a drop", zip)
	s.must(os.Mkdir(s.path("rejected"), 0o755))
	s.put("rejected/a.zip", []byte("another"))
	root, err := openRoot(s.dir)
	s.must(err)
	defer root.Close()
	p := placer{f: s.Folder, root: root, c: c, to: rejected}
	p.dir, err = root.Open(".")
	s.must(err)
	defer p.dir.Close()
	p.sub, err = openSubfolder(p.dir, "rejected")
	s.must(err)
	defer p.sub.Close()
	s.must(errors.Join(os.Rename(s.path("rejected"), s.path("away")), os.Mkdir(s.path("rejected"), 0o755)))
	ended := make(chan error, 1)
	go func() { ended <- p.place() }()
	select {
	case err := <-ended:
		s.must(err)
	case <-time.After(2 * time.Minute):
		t.Fatal("it is tried for ever")
	}
	if data, err := os.ReadFile(s.path("away/a-2.zip")); err != nil || string(data) != string(zip) {
		t.Errorf("%q, %v", data, err)
	}
}
