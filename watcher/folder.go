package watcher

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// HoldName is the file whose presence pauses everything.
const HoldName = "HOLD"

// Names in the patch folder where drops are put away.
const (
	appliedName  = "applied"
	rejectedName = "rejected"
)

// Options say how a Folder decides.
type Options struct {
	Dir           string // the patch folder
	Claims        string // where private copies go; made with mode 0700
	Patience      time.Duration
	MaxSize       int64 // bytes; 0: no limit
	NeedChecksum  bool
	NeedSignature bool

	MaxWaiting       int   // claims at a time; 0: no limit
	MaxWaitingSize   int64 // bytes of their copies; 0: no limit
	KeepRejected     int   // drops that Prune leaves; 0: all
	KeepRejectedSize int64 // bytes of them; 0: no limit

	// Examine looks at a file's structure; the error says why it is not whole.
	Examine func(r io.ReaderAt, size int64) (Shape, error)
	// Verify looks at every byte. It is asked only where a writer cannot be excluded.
	Verify func(ctx context.Context, r io.ReaderAt, size int64, s Sidecars) error
	// Vouched says whether the sidecars hold a checksum for the drop of that name, and
	// whether one of them is not finished.
	Vouched func(name string, s Sidecars) (found, unfinished bool)
	// Signed says whether a signature file is all there.
	Signed func(minisig []byte) bool

	// Free is what a copy may take of the filesystem of Claims, in bytes; not asked if nil.
	Free func() (int64, error)

	Now func() time.Time // time.Now if nil
	Log hclog.Logger
}

// Folder is the patch folder. Only one goroutine may use it.
type Folder struct {
	opts   Options
	seen   map[string]*history // drops that are waited for, by name
	claims map[string]*Claim   // by id
	last   uint64              // the newest arrival
	lists  [2][]byte           // as they were last read, so that all claims share them
}

// history is what is remembered of a drop between two looks.
type history struct {
	arrival uint64 // drops are looked at in this order
	since   time.Time
	id      identity
	links   uint64
	beside  string    // a fingerprint of the sidecars
	written bool      // somebody had it open for writing
	changed time.Time // when any of these did, last
	pause   time.Duration

	shape               Shape
	why                 string
	examined            bool
	vouched             bool // the next two are known
	checksum, signature presence

	looked time.Time     // when every byte was looked at, last
	took   time.Duration // how long that took
	sound  bool          // and what came of it

	ready bool      // it was found whole when there was no room
	over  bool      // it was to be given up when that was no scan's turn
	short time.Time // since when there is no space for a copy
}

// NewFolder returns a Folder that knows of no claims yet; see Resume.
func NewFolder(opts Options) *Folder {
	f := &Folder{seen: map[string]*history{}, claims: map[string]*Claim{}}
	f.Configure(opts)
	return f
}

// Configure replaces the options.
func (f *Folder) Configure(opts Options) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = hclog.NewNullLogger()
	}
	f.opts = opts
}

// Found is what a Scan found.
type Found struct {
	Claims  []*Claim      // new ones, in order of arrival; Reject is set for those that are given up
	Waiting []Waiting     // drops that are not taken yet
	Hold    bool          // HOLD is there: nothing is claimed
	Held    []string      // the drops that it holds
	Gone    []*Claim      // claims whose file was removed from the folder before their turn
	Full    bool          // drops wait for other claims to be released
	Beyond  int           // drops that were not looked at, since so many others wait
	Again   time.Duration // when to scan again even without an event; 0: no need

	Ignored     []Ignored // what is not looked at and may be taken for a drop: the first
	MoreIgnored int       // and how many more
}

// Waiting is a drop that is not taken yet: one of the reasons below, and a sentence.
type Waiting struct{ Name, Reason, Why string }

// Why drops wait.
const (
	NotWhole = "not whole"
	NoProof  = "not vouched for" // its checksum or signature is not there, or not finished
	NoRoom   = "no room"
	NoSpace  = "no space"
)

// Scan looks at the folder once. It takes no more than there is room for, and gives
// up no more than giveUps, so that it comes to an end in a flood too. An error is
// about the folder as a whole.
func (f *Folder) Scan(ctx context.Context) (Found, error) {
	dir, err := openFolder(f.opts.Dir)
	if err != nil {
		return Found{}, fmt.Errorf("cannot look into the patch folder: %w", err)
	}
	defer dir.Close()
	s := f.newScan(dir)
	if err := s.read(); err != nil {
		return Found{}, fmt.Errorf("cannot look into the patch folder: %w", err)
	}
	for _, name := range s.inOrder() {
		if ctx.Err() != nil {
			return s.found, nil
		}
		if s.found.Hold {
			s.found.Held = append(s.found.Held, name)
			continue
		}
		s.look(ctx, name)
	}
	for _, c := range f.claims {
		_, there := s.there[c.Name]
		switch {
		case c.decided || c.Reject != nil:
		case !there:
			s.found.Gone = append(s.found.Gone, c)
		case s.found.Hold:
			s.found.Held = append(s.found.Held, c.Name)
		}
	}
	return s.found, nil
}

// ignored are the endings of files that somebody is still making.
var ignored = []string{".part", ".filepart", ".tmp", ".crdownload", "~"}

// isDrop says whether an entry of the folder is for the agent: a regular file
// whose name ends in .zip (in any case, since some cameras and cards shout).
func isDrop(e fs.DirEntry) bool {
	name := strings.ToLower(e.Name())
	return strings.HasSuffix(name, ".zip") && !strings.HasPrefix(name, ".") && !unfinishedName(name) && e.Type().IsRegular()
}

// pending says whether the file of that name is already claimed.
func (s *scan) pending(name string) bool {
	for _, c := range s.claimed[name] {
		if file, id, _, err := openDrop(s.dir, name); err == nil {
			same := c.isOriginal(file, id)
			_ = file.Close()
			if same {
				return true
			}
		}
	}
	return false
}

// The pauses between two looks at a drop that events do not tell the end of: the
// last write of a file comes before its close, and another name of it may be
// removed from another folder.
const (
	firstPause = time.Millisecond
	lastPause  = time.Second
)

// look looks at one drop and takes it, gives it up, or waits.
func (s *scan) look(ctx context.Context, name string) {
	f, h := s.f, s.f.seen[name]
	if s.knows(name, h) {
		return
	}
	file, id, links, err := openDrop(s.dir, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotRegular) {
			s.wait(name, NotWhole, err.Error())
		}
		return
	}
	defer file.Close()
	now := f.opts.Now()
	sidecars, fresh := s.beside.read(name)
	steady := h.id == id && h.links == links && h.beside == fresh.print
	if !steady {
		h = &history{arrival: h.arrival, since: h.since, id: id, links: links, beside: fresh.print, changed: now, pause: firstPause}
		f.seen[name] = h
	}
	what := sight{
		size: id.size, links: links, writer: writerOf(file), steady: steady,
		needSum: f.opts.NeedChecksum, needSig: f.opts.NeedSignature, sizeLimit: f.opts.MaxSize, patience: f.opts.Patience,
	}
	if what.writer == WriterOpen || h.written {
		h.changed = now // closing it is a change too
	}
	h.written = what.writer == WriterOpen
	what.quiet = now.Sub(h.changed)
	f.examine(ctx, file, sidecars, h, &what)
	if !h.vouched || fresh.written {
		h.checksum, h.signature = f.besideOf(name, sidecars, fresh)
		h.vouched = !fresh.written
	}
	what.checksum, what.signature = h.checksum, h.signature
	if what.writer != WriterOpen && what.shape >= Whole && s.outlived(file, name, sidecars) {
		what.checksum = unfinished
	}
	d := drop{file: file, name: name, id: id, sidecars: sidecars, h: h, now: now,
		soon: what.writer != WriterNone || fresh.written || links != 1}
	s.carryOut(ctx, &d, decide(what))
}

// drop is what a scan has in its hands.
type drop struct {
	file     *os.File
	name     string
	id       identity
	sidecars Sidecars
	h        *history
	now      time.Time
	soon     bool // no event will tell of a change
}

// carryOut does what was decided of a drop.
func (s *scan) carryOut(ctx context.Context, d *drop, v verdict) {
	f, h := s.f, d.h
	h.ready, h.over = v.take, v.code != ""
	if v.take {
		v = s.admit(d)
	}
	if v.take {
		v = s.take(ctx, d)
	}
	switch {
	case v.take || ctx.Err() != nil:
		return
	case v.code != "" && s.mayGiveUp():
		s.add(f.giveUp(d.name, d.id, d.sidecars, v))
		return
	case v.code != "":
		s.postpone(d.name)
		return
	}
	s.wait(d.name, cmp.Or(v.waitsFor, NotWhole), v.why)
	since := h.changed
	switch v.waitsFor {
	case NoRoom:
		return // whoever releases a claim scans again
	case NoSpace:
		since = h.short
	}
	again := since.Add(f.opts.Patience).Sub(d.now)
	if d.soon {
		again = min(max(again, firstPause), h.pause)
		h.pause = min(2*h.pause, lastPause)
	}
	s.again(again)
}

// settledFor is how long a file must have stood still for its structure not to be
// looked at again: longer than any file system's clock tick.
const settledFor = 2 * time.Second

// examine fills in what the bytes say. A file that somebody writes is not read.
func (f *Folder) examine(ctx context.Context, file *os.File, sidecars Sidecars, h *history, s *sight) {
	if s.writer == WriterOpen || s.sizeLimit > 0 && s.size > s.sizeLimit {
		return
	}
	if !h.examined || s.quiet < settledFor || s.quiet >= s.patience {
		shape, err := f.opts.Examine(file, s.size)
		h.shape, h.examined, h.why = shape, true, ""
		if err != nil {
			h.why = err.Error()
		}
	}
	s.shape, s.why = h.shape, h.why
	if s.writer == WriterUnknown && s.shape >= Whole && s.steady {
		s.checked = f.verified(ctx, file, sidecars, h, s.size)
	}
}

// restLooks is how much longer than a look at every byte the time to the next one is: a
// drop that is not sound is looked at again and again, and others wait meanwhile.
const restLooks = 10

// verified looks at every byte, unless it did so a short while ago.
func (f *Folder) verified(ctx context.Context, file *os.File, sidecars Sidecars, h *history, size int64) bool {
	began := f.opts.Now()
	if began.Sub(h.looked) >= restLooks*h.took {
		h.sound = f.opts.Verify(ctx, file, size, sidecars) == nil
		h.looked = f.opts.Now()
		h.took = h.looked.Sub(began)
	}
	return h.sound
}

// outlived says whether a sidecar is still that of an earlier drop of the same name,
// with other bytes, that is not put away yet: then the drop's own is still to come.
func (s *scan) outlived(file *os.File, name string, now Sidecars) bool {
	for _, c := range s.claimed[name] {
		if c.Reject != nil {
			continue
		}
		claimed, same := c.Sidecars.own(), false
		for ending, content := range now.own() {
			same = same || *content != nil && bytes.Equal(*content, *claimed[ending])
		}
		if same && !c.hasBytes(file) {
			return true
		}
	}
	return false
}

// besideOf says what state the sidecars are in.
func (f *Folder) besideOf(name string, sidecars Sidecars, fresh freshness) (checksum, signature presence) {
	found, torn := f.opts.Vouched(name, sidecars)
	switch {
	case torn || fresh.written:
		checksum = unfinished
	case found:
		checksum = present
	}
	switch {
	case sidecars.Minisig == nil:
	case f.opts.Signed(sidecars.Minisig):
		signature = present
	default:
		signature = unfinished
	}
	return checksum, signature
}
