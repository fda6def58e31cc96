//go:build linux

package watcher

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"patchagent/manifest/reason"
)

// names of the claims that a scan has made.
func claimed(found Found) []string {
	var names []string
	for _, c := range found.Claims {
		names = append(names, c.Name)
	}
	return names
}

func (s *stage) claimsAre(what string, found Found, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, claimed(found)); diff != "" {
		s.t.Fatalf("%s: claimed (-want +got):\n%s\n%+v", what, diff, found.Waiting)
	}
}

// waitsFor wants that drop to wait for that.
func (s *stage) waitsFor(found Found, name, why string) {
	s.t.Helper()
	if i := slices.IndexFunc(found.Waiting, func(w Waiting) bool { return w.Name == name }); i < 0 || found.Waiting[i].Reason != why || found.Waiting[i].Why == "" {
		s.t.Fatalf("%s does not wait for %q: %+v", name, why, found.Waiting)
	}
}

// TestMaxWaiting: there are never more claims than are allowed, and those that found
// no room come in the order in which they were first seen.
func TestMaxWaiting(t *testing.T) {
	s := newStage(t, func(o *Options) { o.MaxWaiting = 2 })
	for _, name := range []string{"m.zip", "n.zip", "o.zip"} {
		s.put(name, schema2(name))
	}
	first := s.scan()
	s.claimsAre("at first", first, "m.zip", "n.zip")
	s.waitsFor(first, "o.zip", NoRoom)
	if !first.Full {
		t.Error("it does not say that drops wait for claims to be released")
	}
	s.put("a.zip", schema2("a"))
	second := s.scan()
	s.claimsAre("no room", second)
	s.waitsFor(second, "a.zip", NoRoom)
	// What an earlier agent has claimed counts too.
	claims := s.restart()
	s.put("b.zip", schema2("b"))
	s.claimsAre("no room after a restart", s.scan())
	s.putAway(claims[0], applied)
	s.put("0.zip", schema2("0"))
	s.claimsAre("room for one", s.scan(), "a.zip") // all that were there at the start came together
	s.putAway(claims[1], applied)
	s.claimsAre("and one more", s.scan(), "b.zip")
	for _, want := range []string{"o.zip", "0.zip"} {
		for _, c := range s.claims {
			s.putAway(c, applied)
			break
		}
		s.claimsAre("and one more", s.scan(), want)
	}
}

// TestNoNameIsFirst: a stream of new drops with low names, each as good as the next,
// does not keep the one waiting that came before them.
func TestNoNameIsFirst(t *testing.T) {
	s := newStage(t, func(o *Options) { o.MaxWaiting = 1 })
	s.put("0.zip", schema2("0"))
	s.put("z.zip", schema2("z"))
	found := s.scan()
	for i := 0; found.Claims[0].Name != "z.zip"; i++ {
		if i > 1 {
			t.Fatal("it is still not taken")
		}
		s.put(fmt.Sprintf("0%d.zip", i), schema2("new"))
		s.put("0.zip", schema2(fmt.Sprint("again ", i))) // and one that is always there again
		s.scan()
		s.putAway(found.Claims[0], rejected)
		found = s.scan()
	}
}

// TestMaxWaitingSize bounds the copies, and locks nobody out.
func TestMaxWaitingSize(t *testing.T) {
	small, large := schema2("small"), schema2(strings.Repeat("large", 1000))
	s := newStage(t, func(o *Options) { o.MaxWaitingSize = int64(2*len(small) + 10) })
	for _, name := range []string{"a.zip", "b.zip", "c.zip"} {
		s.put(name, small)
	}
	found := s.scan()
	s.claimsAre("two fit", found, "a.zip", "b.zip")
	s.waitsFor(found, "c.zip", NoRoom)
	s.put("d.zip", large)
	s.scan()
	s.put("e.zip", small)
	s.putAway(found.Claims[0], applied)
	next := s.scan()
	s.claimsAre("the third", next, "c.zip")
	s.putAway(found.Claims[1], applied)
	alone := s.scan()
	s.claimsAre("a small one must not overtake a large one for ever", alone)
	s.waitsFor(alone, "d.zip", NoRoom)
	s.waitsFor(alone, "e.zip", NoRoom)
	s.putAway(next.Claims[0], applied)
	alone = s.scan()
	s.claimsAre("larger than all that may wait, and alone", alone, "d.zip")
	s.putAway(alone.Claims[0], applied)
	s.claimsAre("after it", s.scan(), "e.zip")
}

// TestManyToGiveUp: one scan gives up so many, and a whole drop that came after all of
// them is taken meanwhile.
func TestManyToGiveUp(t *testing.T) {
	s := newStage(t, func(o *Options) { o.MaxWaiting = 1000 })
	const many = 2*giveUps + 10
	for i := range many {
		s.put(fmt.Sprintf("%03d.zip", i), []byte("junk"))
	}
	s.waits("junk")
	s.now = s.now.Add(patience)
	s.put("good.zip", schema2("good"))
	var ended []string
	for _, want := range []int{giveUps + 1, giveUps, 10} {
		found := s.scan()
		if len(found.Claims) != want {
			t.Fatalf("%d claims in one scan, want %d", len(found.Claims), want)
		}
		if left := many - len(ended) - want; left > 0 && found.Again != firstPause {
			t.Errorf("there are more, and it asks to be called after %v", found.Again)
		}
		for _, c := range found.Claims {
			if c.Reject != nil {
				s.putAway(c, Destination{Code: c.Reject.Code})
			}
			ended = append(ended, c.Name)
		}
	}
	slices.Sort(ended)
	if len(slices.Compact(ended)) != many+1 {
		t.Errorf("%d of %d have ended", len(ended), many+1)
	}
}

// TestStuckGivingUp: while claims wait, drops are given up all the same. When those
// cannot be put away, no more are, and the scans do not go round in circles.
func TestStuckGivingUp(t *testing.T) {
	s := newStage(t, func(o *Options) { o.MaxWaiting = 1 })
	s.put("good.zip", schema2("good"))
	s.takes("it fills the room", schema2("good"))
	for i := range 2*giveUps + 1 {
		s.put(fmt.Sprintf("%03d.zip", i), []byte("junk"))
	}
	s.scan()
	s.now = s.now.Add(patience)
	if found := s.scan(); len(found.Claims) != giveUps {
		t.Errorf("%d are given up at first", len(found.Claims))
	}
	if found := s.scan(); len(found.Claims) != 0 || found.Again != 0 {
		t.Errorf("%d more are given up, and it asks for a scan after %v", len(found.Claims), found.Again)
	}
}

// TestNoSpace: a copy never takes the last, and a drop for which there is no space is
// given up after patience, counted from then.
func TestNoSpace(t *testing.T) {
	zip := schema2("space")
	free, broken := int64(len(zip))-1, error(nil)
	s := newStage(t, func(o *Options) { o.Free = func() (int64, error) { return free, broken } })
	s.put("a.zip", zip)
	s.put("b.zip", schema2("b"))
	s.now = s.now.Add(time.Hour)
	found := s.scan()
	s.claimsAre("only a small one fits", found, "b.zip")
	s.waitsFor(found, "a.zip", NoSpace)
	if found.Again <= 0 || found.Again > patience {
		t.Errorf("it asks for the next look after %v", found.Again)
	}
	s.now = s.now.Add(patience - 1)
	s.claimsAre("just before patience is over", s.scan())
	s.now = s.now.Add(1)
	found = s.scan()
	s.claimsAre("patience is over", found, "a.zip")
	if c := found.Claims[0]; c.Reject == nil || c.Reject.Code != reason.NoSpace || !strings.Contains(c.Reject.Detail, s.opts.Claims) {
		t.Errorf("%+v", c.Reject)
	}
	s.put("c.zip", zip)
	s.waitsFor(s.scan(), "c.zip", NoSpace)
	free++
	s.claimsAre("there is space now", s.scan(), "c.zip")
	s.opts.MaxWaiting = 3
	s.Configure(s.opts)
	s.put("e.zip", zip) // it has waited for room before
	s.claimsAre("room for one more", s.scan(), "e.zip")
	s.put("f.zip", zip)
	s.waitsFor(s.scan(), "f.zip", NoRoom)
	s.now = s.now.Add(time.Hour)
	s.opts.MaxWaiting, free = 0, 0
	s.Configure(s.opts)
	s.waitsFor(s.scan(), "f.zip", NoSpace)
	s.must(os.Remove(s.path("f.zip")))
	free, broken = 0, errors.New("cannot say")
	s.put("d.zip", zip)
	s.claimsAre("it cannot be known", s.scan(), "d.zip")
}

// TestBeyond: no more drops are remembered than memory is for; the others come when
// there is room.
func TestBeyond(t *testing.T) {
	s := newStage(t)
	for i := range maxSeen + 10 {
		s.must(os.WriteFile(s.path(fmt.Sprintf("%d.zip", i)), nil, 0o644))
	}
	s.put(HoldName, nil)
	found := s.scan()
	if len(found.Held) != maxSeen || found.Beyond != 10 || len(s.seen) != maxSeen {
		t.Fatalf("%d held, %d beyond, %d remembered", len(found.Held), found.Beyond, len(s.seen))
	}
	for _, name := range found.Held[:20] {
		s.must(os.Remove(s.path(name)))
	}
	if found := s.scan(); len(found.Held) != maxSeen-10 || found.Beyond != 0 {
		t.Errorf("%d held, %d beyond", len(found.Held), found.Beyond)
	}
	for i := range 15 {
		s.put(fmt.Sprint("new", i, ".zip"), nil)
	}
	if found := s.scan(); len(found.Held) != maxSeen || found.Beyond != 5 {
		t.Errorf("%d held, %d beyond", len(found.Held), found.Beyond)
	}
}

// TestLongSidecars are read up to a bound.
func TestLongSidecars(t *testing.T) {
	s := newStage(t)
	zip := schema2("long")
	line := sumLine("a.zip", zip)
	s.put("a.zip.sha256", append(bytes.Repeat([]byte("# long\n"), maxOwn/7+1), line...))
	s.put("SHA256SUMS", slices.Concat(line, bytes.Repeat([]byte("# long\n"), 2*maxList/7)))
	s.put("a.zip", zip)
	s.put("b.zip", schema2("b"))
	found := s.scan()
	s.claimsAre("what vouches for itself", found, "b.zip")
	b := found.Claims[0].Sidecars
	s.now = s.now.Add(patience)
	found = s.scan()
	s.claimsAre("what has more than is read beside it", found, "a.zip")
	a := found.Claims[0].Sidecars
	if len(a.SHA256) != maxOwn || len(a.List) != maxList {
		t.Errorf("%d and %d bytes are kept", len(a.SHA256), len(a.List))
	}
	s.put("c.zip", schema2("c"))
	found = s.scan()
	s.claimsAre("later", found, "c.zip")
	if c := found.Claims[0].Sidecars; &a.List[0] != &b.List[0] || &a.List[0] != &c.List[0] {
		t.Error("claims do not share the list")
	}
}

// rejectedAt puts a drop into rejected/, that long ago.
func (s *stage) rejectedAt(name string, size int, ago time.Duration) {
	s.t.Helper()
	path := s.path(filepath.Join("rejected", name))
	at := time.Now().Add(-ago)
	s.must(errors.Join(os.WriteFile(path, make([]byte, size), 0o644), os.WriteFile(path+".sha256", []byte("x"), 0o644),
		os.WriteFile(path+reasonEnding, []byte("not-a-zip\nIt is none.\nBuild it again.\n"), 0o644), os.Chtimes(path+reasonEnding, at, at)))
}

func (s *stage) prunes(want int) {
	s.t.Helper()
	pruned, err := s.Prune()
	s.must(err)
	if pruned.Drops != want {
		s.t.Errorf("%d drops pruned, want %d", pruned.Drops, want)
	}
}

// rejectedNames are the names in rejected/.
func (s *stage) rejectedNames() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.path("rejected"))
	s.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func files(drops ...string) []string {
	var names []string
	for _, d := range drops {
		names = append(names, d, d+reasonEnding, d+".sha256")
	}
	return names
}

// TestPrune removes the oldest by the time at which they were put there, and nothing
// that the agent has not put there.
func TestPrune(t *testing.T) {
	s := newStage(t, func(o *Options) { o.KeepRejected, o.KeepRejectedSize = 3, 1000 })
	s.prunes(0)
	s.must(os.Mkdir(s.path("rejected"), 0o755))
	for i, name := range []string{"c.zip", "a.zip", "d.zip", "b.zip"} {
		s.rejectedAt(name, 100, time.Duration(i)*time.Minute)
	}
	s.prunes(1)
	if diff := cmp.Diff(files("a.zip", "c.zip", "d.zip"), s.rejectedNames()); diff != "" {
		t.Errorf("by number (-want +got):\n%s", diff)
	}
	s.rejectedAt("e.zip", 850, 0)
	s.rejectedAt("c.zip", 100, time.Minute)
	s.prunes(2)
	reasons := func(names ...string) (all []string) {
		for _, name := range names {
			all = append(all, name+reasonEnding)
		}
		return all
	}
	if diff := cmp.Diff(slices.Concat(reasons("a.zip"), files("c.zip", "e.zip")), s.rejectedNames()); diff != "" {
		t.Errorf("by size, and the reason stays (-want +got):\n%s", diff)
	}
	s.prunes(0)
	s.rejectedAt("f.zip", 5000, -time.Minute)
	s.prunes(3)
	if diff := cmp.Diff(slices.Concat(reasons("c.zip", "e.zip"), files("f.zip")), s.rejectedNames()); diff != "" {
		t.Errorf("the newest stays (-want +got):\n%s", diff)
	}
	// A large one that is not the newest costs only itself; holes cost nothing.
	s.rejectedAt("g.zip", 500, -2*time.Minute)
	s.prunes(2)
	s.rejectedAt("h.zip", 0, -3*time.Minute)
	s.must(os.Truncate(s.path("rejected/h.zip"), 1<<40))
	s.prunes(1)
	if diff := cmp.Diff(slices.Concat(reasons("f.zip"), files("g.zip", "h.zip")), s.rejectedNames()); diff != "" {
		t.Errorf("what is there (-want +got):\n%s", diff)
	}
}

// TestPruneLeavesWhatIsNotItsOwn, and what a crash has left of its own goes.
func TestPruneLeavesWhatIsNotItsOwn(t *testing.T) {
	s := newStage(t, func(o *Options) { o.KeepRejected = 1 })
	dir := s.path("rejected")
	in := func(name string) string { return filepath.Join(dir, name) }
	s.must(os.Mkdir(dir, 0o755))
	old := time.Unix(1e9, 0)
	for name, text := range map[string]string{
		"byhand.zip": "x", "note.zip": "x", "note.zip" + reasonEnding: "because I say so\n",
		"short.zip": "x", "short.zip" + reasonEnding: "not-a-zip", "notes.txt": "x",
		"folder.zip" + reasonEnding: "not-a-zip\n\n\n", "gone.zip" + reasonEnding: "not-a-zip\n\n\n",
	} {
		s.must(errors.Join(os.WriteFile(in(name), []byte(text), 0o644), os.Chtimes(in(name), old, old)))
	}
	s.must(errors.Join(os.Mkdir(in("folder.zip"), 0o755), os.Symlink("byhand.zip", in("link.zip")), syscall.Mkfifo(in("fifo.zip"+reasonEnding), 0o644),
		os.WriteFile(in("link.zip"+reasonEnding), []byte("not-a-zip\n"), 0o644)))
	want := s.rejectedNames()
	want = slices.DeleteFunc(want, func(n string) bool { return n == "gone.zip"+reasonEnding })
	s.rejectedAt("new.zip", 10, 0)
	s.prunes(1) // of a drop that was pruned, a crash has left the reason
	got := slices.DeleteFunc(s.rejectedNames(), func(n string) bool { return strings.HasPrefix(n, "new.zip") })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// TestPruneSparesWhatIsBusy: a drop that is being put away is left alone.
func TestPruneSparesWhatIsBusy(t *testing.T) {
	s := newStage(t, func(o *Options) { o.KeepRejected = 1 })
	s.put("a.zip", schema2("a"))
	c := s.takes("a", schema2("a"))
	s.place(c, rejected)
	old := time.Unix(1e9, 0)
	s.must(os.Chtimes(s.path("rejected/a.zip"+reasonEnding), old, old))
	s.rejectedAt("b.zip", 10, 0)
	s.rejectedAt("c.zip", 10, time.Minute)
	s.prunes(1)
	s.must(s.Release(c))
	s.prunes(1)
	if diff := cmp.Diff(files("b.zip"), s.rejectedNames()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// TestBeyondTheUnending: drops that would be waited for without end do not keep the
// others from being looked at.
func TestBeyondTheUnending(t *testing.T) {
	s := newStage(t)
	for i := range maxSeen {
		s.must(os.WriteFile(s.path(fmt.Sprintf("%d.zip", i)), []byte("PK"), 0o644))
	}
	writer, err := os.OpenFile(s.path("0.zip"), os.O_WRONLY, 0)
	s.must(err)
	defer writer.Close()
	s.scan()
	good := schema2("good")
	s.put("good.zip", good)
	found := s.scan()
	if len(found.Claims) != 1 || found.Claims[0].Name != "good.zip" {
		t.Errorf("%d claims, %d beyond", len(found.Claims), found.Beyond)
	}
	if found.Beyond != 0 { // it was evicted, and is looked at again when there is room
		t.Errorf("%d beyond", found.Beyond)
	}
	if found := s.scan(); len(s.seen) != maxSeen || found.Beyond != 0 {
		t.Errorf("%d remembered, %d beyond", len(s.seen), found.Beyond)
	}
}
