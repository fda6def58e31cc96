//go:build linux

package watcher

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"patchagent/manifest/reason"
)

// TestResumeAnyName: a name need not be text for its drop to be known again.
func TestResumeAnyName(t *testing.T) {
	for _, name := range []string{"b\xe4d.zip", "\xff\xfe.zip", "gr\u00f6\u00dfe.zip", "a\nb.zip"} {
		s := newStage(t)
		zip := schema2("x")
		s.put(name, zip)
		s.takes("a drop", zip)
		claims := s.restart()
		if len(claims) != 1 || claims[0].Name != name {
			t.Fatalf("%q: %+v", name, claims)
		}
		if found := s.scan(); len(found.Gone)+len(found.Claims) > 0 {
			t.Errorf("%q: %d gone, %d new", name, len(found.Gone), len(found.Claims))
		}
		s.must(s.inTheWay("applied", func() { // it is decided, and cannot be put away yet
			if _, err := s.Place(claims[0], applied); err == nil {
				t.Errorf("%q: it is put away", name)
			}
		}))
		claims = s.restart()
		if got := s.putAway(claims[0], applied); got != "applied/300_"+name {
			t.Errorf("%q: placed as %q", name, got)
		}
		s.nothing("it is put away")
	}
}

// inTheWay has a file in the place of a folder while do runs.
func (s *stage) inTheWay(name string, do func()) error {
	s.put(name, nil)
	do()
	return os.Remove(s.path(name))
}

// TestResume reads back what an earlier run has claimed, oldest first, with all that
// the checks need: also the lists, which do not travel.
func TestResume(t *testing.T) {
	s := newStage(t, func(o *Options) { o.NeedSignature = true })
	if claims := s.restart(); len(claims) != 0 {
		t.Fatalf("resumed from nothing: %v", claims)
	}
	first, second := schema1("first"), schema1("second")
	s.put("SHA256SUMS", sumLine("z.zip", first))
	s.put("checksums.txt", []byte("1 z.zip\n"))
	s.put("z.zip.crc32", []byte("1\n"))
	s.put("z.zip.minisig", nil)
	s.put("z.zip", first)
	s.must(os.WriteFile(s.path("torn.zip"), first[:99], 0o644))
	s.waits("z is not finished, torn is torn")
	s.put("z.zip.minisig", []byte("signed"))
	old := []*Claim{s.takes("z", first)}
	s.now = s.now.Add(time.Second)
	s.put("a.zip.minisig", []byte("signed"))
	s.drop("a.zip", second)
	old = append(old, s.takes("a", second))
	s.now = s.now.Add(patience)
	old = append(old, s.scan().Claims...)
	old[1].Attempts, old[1].WaitsSince = 2, s.now
	s.must(old[1].Save(true))

	claims := s.restart()
	if len(claims) != 3 {
		t.Fatalf("resumed %d claims", len(claims))
	}
	for i, c := range claims {
		old[i].resumed = true
		if diff := cmp.Diff(old[i], c, cmp.AllowUnexported(Claim{}, identity{}), cmp.Comparer(sameReason)); diff != "" {
			t.Errorf("claim %d (-before +after):\n%s", i, diff)
		}
	}
	s.holds(claims[0], first)
	s.holds(claims[1], second)
	if c := claims[2]; c.Reject == nil || c.Reject.Code != reason.Incomplete {
		t.Errorf("given up: %+v", c)
	}
	s.nothing("all are claimed")
}

// TestResumeRenumbered is a folder that was mounted again: its device, and on some
// filesystems its files, have other numbers then, and are no other drops.
func TestResumeRenumbered(t *testing.T) {
	zip := schema1("one")
	for name, change := range map[string]func(r *record){
		"device":          func(r *record) { r.Dev++ },
		"file":            func(r *record) { r.Ino++ },
		"device and file": func(r *record) { r.Dev++; r.Ino++ },
		"and time":        func(r *record) { r.Dev++; r.Ino++; r.MtimeNS -= 999 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.drop("a.zip", zip)
			c := s.takes("a", zip)
			s.must(os.WriteFile(s.path("bad.zip"), zip[:99], 0o644))
			s.waits("it is torn")
			s.now = s.now.Add(patience)
			bad := s.scan().Claims[0]
			for _, c := range []*Claim{c, bad} {
				var r record
				data, err := os.ReadFile(filepath.Join(c.dir, recordName))
				s.must(err)
				s.must(json.Unmarshal(data, &r))
				if change(&r); c == bad {
					r.MtimeNS = c.id.mtime // without a copy the time has to be right
				}
				data, err = json.Marshal(r)
				s.must(err)
				s.must(os.WriteFile(filepath.Join(c.dir, recordName), data, 0o600))
			}
			if claims := s.restart(); len(claims) != 2 {
				t.Fatalf("resumed %d claims", len(claims))
			}
			s.nothing("both are claimed")
			s.drop("a.zip", schema1("another"))
			s.takes("another of the same name", schema1("another"))
		})
	}
}

func sameReason(x, y *reason.Error) bool {
	return x == y || x != nil && y != nil && x.Code == y.Code && x.Detail == y.Detail
}

// TestResumeTorn damages what is on the disk. The drop is claimed again, from its
// file, and nothing of the first claim is left.
func TestResumeTorn(t *testing.T) {
	zip := schema2("torn")
	write := func(file, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600) }
	}
	for what, damage := range map[string]func(dir string) error{
		"no record":            func(dir string) error { return os.Remove(filepath.Join(dir, recordName)) },
		"an empty record":      write(recordName, ""),
		"half a record":        write(recordName, `{"id":"2026`),
		"another's record":     write(recordName, `{"id":"x","name":"a.zip"}`),
		"a record with a path": write(recordName, `{"id":"x","name":"../a.zip"}`),
		"no copy":              func(dir string) error { return os.Remove(filepath.Join(dir, packageName)) },
		"half a copy":          func(dir string) error { return os.Truncate(filepath.Join(dir, packageName), 100) },
		"an altered copy":      write(packageName, "another"),
		"the folder's name":    func(dir string) error { return os.Rename(dir, dir+"x") },
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			s.put("a.zip", zip)
			c := s.takes("a drop", zip)
			s.must(damage(c.dir))
			if claims := s.restart(); len(claims) != 0 {
				t.Fatalf("resumed %+v", claims[0])
			}
			if left := s.left(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			again := s.takes("once more", zip)
			s.putAway(again, applied)
			s.wants(map[string]string{"applied/300_a.zip": string(zip)})
		})
	}
}

// TestGoneAfterResume: the file was removed while no agent ran.
func TestGoneAfterResume(t *testing.T) {
	s := newStage(t)
	s.put("a.zip", schema2("x"))
	s.takes("a drop", schema2("x"))
	s.must(os.Remove(s.path("a.zip")))
	claims := s.restart()
	if found := s.scan(); len(claims) != 1 || len(found.Gone) != 1 || found.Gone[0] != claims[0] {
		t.Errorf("resumed %v, found %+v", claims, found)
	}
}

// TestClaimsAreUnlike: two in the same instant.
func TestClaimsAreUnlike(t *testing.T) {
	s := newStage(t)
	s.put("a.zip", schema2("a"))
	s.put("b.zip", schema2("b"))
	found := s.scan()
	if len(found.Claims) != 2 || found.Claims[0].ID == found.Claims[1].ID {
		t.Fatalf("claims: %+v", found.Claims)
	}
	s.holds(found.Claims[0], schema2("a"))
	s.holds(found.Claims[1], schema2("b"))
	info, err := os.Stat(s.opts.Claims)
	s.must(err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the claims' folder has mode %v", info.Mode())
	}
}

// TestCannotClaim: no room for the private copy. It waits and is tried again, ever
// less often; a drop to be given up is given up all the same.
func TestCannotClaim(t *testing.T) {
	s := newStage(t)
	zip := schema2("x")
	s.must(os.WriteFile(filepath.Dir(s.opts.Claims), []byte("in the way"), 0o600))
	s.put("a.zip", zip)
	var last time.Duration
	for range 15 {
		found := s.waits("no claims folder")
		if found.Again < last {
			t.Errorf("it asks for the next look after %v, and had asked for %v", found.Again, last)
		}
		last = found.Again
	}
	if last != lastPause {
		t.Errorf("it settles at every %v", last)
	}
	s.put("b.zip", zip[:10])
	s.scan()
	s.now = s.now.Add(patience)
	found := s.scan()
	if len(found.Claims) != 1 || found.Claims[0].Name != "b.zip" || found.Claims[0].Reject == nil {
		t.Fatalf("found %+v", found)
	}
	s.putAway(found.Claims[0], rejected)
	s.must(os.Remove(filepath.Dir(s.opts.Claims)))
	s.takes("there is room again", zip)
}
