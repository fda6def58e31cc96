package watcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"patchagent/manifest/reason"
)

const (
	// maxSeen is how many drops are remembered, in the order in which they came. More
	// are left for later, so that no flood takes more than some megabytes of memory.
	maxSeen = 10_000
	// giveUps is how many drops one scan gives up: each takes a receipt, and what is
	// whole is not to wait for all of them.
	giveUps = 64
	// chunk is how many names are read at a time: nothing is kept of those that are no drops.
	chunk = 1024
)

// scan is one look at the folder.
type scan struct {
	f       *Folder
	dir     *os.File
	beside  sidecarReader
	claimed map[string][]*Claim // by name
	there   map[string]bool     // names of drops and claims that are in the folder; true for drops
	found   Found

	copies  int    // claims with a copy
	size    int64  // of those copies
	rejects int    // claims without one
	givenUp int    // of those, by this scan
	noRoom  string // why no more is taken; "" until a drop has found none
}

func (f *Folder) newScan(dir *os.File) *scan {
	s := &scan{f: f, dir: dir, claimed: map[string][]*Claim{}, there: map[string]bool{}}
	s.beside = sidecarReader{dir: dir, known: &f.lists}
	for _, c := range f.claims {
		s.claimed[c.Name] = append(s.claimed[c.Name], c)
		s.count(c)
	}
	return s
}

// count adds a claim to what waits.
func (s *scan) count(c *Claim) {
	if c.Reject != nil {
		s.rejects++
		return
	}
	s.copies++
	s.size += c.weight()
}

// add is for a claim that this scan has made.
func (s *scan) add(c *Claim) {
	delete(s.f.seen, c.Name) // the next of that name comes after all that are there now
	s.count(c)
	if c.Reject != nil {
		s.givenUp++
	}
	s.found.Claims = append(s.found.Claims, c)
}

// read reads the names in the folder. Drops that were not there before are put
// behind those that were, in order of name.
func (s *scan) read() error {
	var fresh []string
	for {
		entries, err := s.dir.ReadDir(chunk)
		for _, e := range entries {
			name := e.Name()
			s.found.Hold = s.found.Hold || name == HoldName
			isDrop := isDrop(e)
			claimed := s.claimed[name] != nil
			if claimed {
				s.there[name] = isDrop
			}
			if !isDrop {
				s.overlook(e)
				continue
			}
			_, seen := s.f.seen[name]
			switch {
			case seen || claimed && s.pending(name):
				s.there[name] = true
			case len(fresh) < maxSeen:
				fresh = append(fresh, name)
			default:
				s.found.Beyond++
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	for name := range s.f.seen {
		if !s.there[name] {
			delete(s.f.seen, name)
		}
	}
	slices.Sort(fresh)
	fresh = slices.Compact(fresh) // a folder that changes while it is read can name one twice
	s.evict(len(s.f.seen) + len(fresh) - maxSeen)
	room := min(max(maxSeen-len(s.f.seen), 0), len(fresh))
	s.found.Beyond += len(fresh) - room
	for _, name := range fresh[:room] {
		s.f.last++
		s.f.seen[name] = &history{arrival: s.f.last, since: s.f.opts.Now()}
		s.there[name] = true
	}
	return nil
}

// evict forgets drops that others would wait for without end: somebody has them open
// for writing, or changes them again and again. They come back behind the others.
func (s *scan) evict(n int) {
	now := s.f.opts.Now()
	for name, h := range s.f.seen {
		if n <= 0 {
			return
		}
		if h.written || now.Sub(h.since) > s.f.opts.Patience && now.Sub(h.changed) < s.f.opts.Patience && !h.ready {
			delete(s.f.seen, name)
			n--
		}
	}
}

// inOrder are the drops to look at, those that came first first: whoever keeps
// dropping files, with whatever names, is behind what was there before.
func (s *scan) inOrder() []string {
	names := make([]string, 0, len(s.f.seen))
	for name := range s.f.seen {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Compare(s.f.seen[x].arrival, s.f.seen[y].arrival) })
	return names
}

func (s *scan) wait(name, reason, why string) {
	s.found.Waiting = append(s.found.Waiting, Waiting{name, reason, why})
}

func (s *scan) again(after time.Duration) {
	if s.found.Again == 0 || after < s.found.Again {
		s.found.Again = max(after, firstPause)
	}
}

// knows says whether a drop need not be looked at: it was found whole and there is
// still no room, or it is to be given up and others are first.
func (s *scan) knows(name string, h *history) bool {
	switch {
	case h.ready && s.room(h.id.size) != "":
		s.wait(name, NoRoom, s.noRoom)
		s.found.Full = true
		return true
	case h.over && !s.mayGiveUp():
		s.postpone(name)
		return true
	}
	return false
}

// postpone leaves a drop that is to be given up for the next scan.
func (s *scan) postpone(name string) {
	s.wait(name, NotWhole, "it is given up when those before it are put away")
	if s.givenUp >= giveUps {
		s.again(firstPause)
	}
}

// room says why there is none for one more copy, or "". When a drop has found none,
// those behind it find none either: smaller ones would be taken before it for ever.
// Where nothing waits there is always room, so that no limit can lock a drop out.
func (s *scan) room(size int64) string {
	o := s.f.opts
	switch {
	case s.noRoom != "" || s.copies == 0:
	case o.MaxWaiting > 0 && s.copies >= o.MaxWaiting:
		s.noRoom = fmt.Sprintf("%d patches wait, and patch.max_waiting allows no more", s.copies)
	case o.MaxWaitingSize > 0 && s.size+size > o.MaxWaitingSize:
		s.noRoom = fmt.Sprintf("%d bytes of patches wait, and patch.max_waiting_size allows no %d more", s.size, size)
	}
	return s.noRoom
}

// mayGiveUp says whether one more drop may be given up in this scan. They are counted
// apart from the copies: neither is to keep the other waiting.
func (s *scan) mayGiveUp() bool {
	return s.givenUp < giveUps && (s.f.opts.MaxWaiting <= 0 || s.rejects < max(s.f.opts.MaxWaiting, giveUps))
}

// admit decides on a drop that is whole: is there room for it, and space?
func (s *scan) admit(d *drop) verdict {
	if why := s.room(d.id.size); why != "" {
		s.found.Full, d.h.short = true, time.Time{}
		return verdict{why: why, waitsFor: NoRoom}
	}
	if why := s.f.noSpace(d.id.size); why != "" {
		return s.lacksSpace(d, why)
	}
	return verdict{take: true}
}

// take claims a drop; the verdict is to wait if that fails.
func (s *scan) take(ctx context.Context, d *drop) verdict {
	claim, err := s.f.claim(ctx, d.file, d.name, d.id, d.sidecars)
	switch {
	case err == nil:
		s.add(claim)
		return verdict{take: true}
	case isFull(err):
		return s.lacksSpace(d, err.Error())
	}
	d.h.changed, d.soon = d.now, true
	return verdict{why: err.Error()}
}

// lacksSpace waits for space, for as long as for anything else.
func (s *scan) lacksSpace(d *drop, why string) verdict {
	if d.h.short.IsZero() {
		d.h.short = d.now
	}
	if d.now.Sub(d.h.short) >= s.f.opts.Patience {
		return verdict{code: reason.NoSpace, why: why}
	}
	return verdict{why: why, waitsFor: NoSpace}
}

// noSpace says why a copy of that size would not leave what must stay free, or "".
// A sparse file counts in full: its copy is not sparse.
func (f *Folder) noSpace(size int64) string {
	if f.opts.Free == nil {
		return ""
	}
	free, err := f.opts.Free()
	if err != nil || size <= free { // if it cannot be known, the copy itself shows it
		return ""
	}
	return fmt.Sprintf("its copy needs %d bytes, and only %d may still be taken of the filesystem of %s", size, max(free, 0), f.opts.Claims)
}

// isFull says whether the disk, or a quota, is what an error is about.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
