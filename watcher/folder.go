package watcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
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

	// Examine looks at a file's structure; the error says why it is not whole.
	Examine func(r io.ReaderAt, size int64) (Shape, error)
	// Verify looks at every byte. It is asked only where a writer cannot be excluded.
	Verify func(ctx context.Context, r io.ReaderAt, size int64, s Sidecars) error
	// Vouched says whether the sidecars hold a checksum for the drop of that name, and
	// whether one of them is not finished.
	Vouched func(name string, s Sidecars) (found, unfinished bool)
	// Signed says whether a signature file is all there.
	Signed func(minisig []byte) bool

	Now func() time.Time // time.Now if nil
	Log hclog.Logger
}

// Folder is the patch folder. Only one goroutine may use it.
type Folder struct {
	opts   Options
	seen   map[string]*history // drops that are waited for, by name
	claims map[string]*Claim   // by id
}

// history is what is remembered of a drop between two looks.
type history struct {
	id      identity
	links   uint64
	beside  string    // a fingerprint of the sidecars
	written bool      // somebody had it open for writing
	changed time.Time // when any of these did, last
	pause   time.Duration

	shape    Shape
	why      string
	examined bool
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
	Claims  []*Claim      // new ones, in order of name; Reject is set for those that are given up
	Waiting []Waiting     // drops that are not whole yet
	Hold    bool          // HOLD is there: nothing is claimed
	Held    []string      // the drops that it holds
	Gone    []*Claim      // claims whose file was removed from the folder before their turn
	Again   time.Duration // when to scan again even without an event; 0: no need
}

// Waiting is a drop that is not whole yet.
type Waiting struct{ Name, Why string }

// Scan looks at the folder once. An error is about the folder as a whole.
func (f *Folder) Scan(ctx context.Context) (Found, error) {
	dir, err := openFolder(f.opts.Dir)
	if err != nil {
		return Found{}, fmt.Errorf("cannot look into the patch folder: %w", err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return Found{}, fmt.Errorf("cannot look into the patch folder: %w", err)
	}
	slices.SortFunc(entries, func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	var found Found
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	found.Hold = names[HoldName]
	beside := sidecarReader{dir: dir}
	for _, e := range entries {
		if ctx.Err() != nil {
			return found, nil
		}
		if !isDrop(e) || f.pending(dir, e.Name()) {
			continue
		}
		if found.Hold {
			found.Held = append(found.Held, e.Name())
			continue
		}
		f.look(ctx, dir, e.Name(), &beside, &found)
	}
	for name := range f.seen {
		if !names[name] {
			delete(f.seen, name)
		}
	}
	for _, c := range f.claims {
		switch {
		case c.decided || c.Reject != nil:
		case !names[c.Name]:
			found.Gone = append(found.Gone, c)
		case found.Hold:
			found.Held = append(found.Held, c.Name)
		}
	}
	return found, nil
}

// ignored are the endings of files that somebody is still making.
var ignored = []string{".part", ".filepart", ".tmp", ".crdownload", "~"}

// isDrop says whether an entry of the folder is for the agent: a regular file
// whose name ends in .zip (in any case, since some cameras and cards shout).
func isDrop(e fs.DirEntry) bool {
	name := strings.ToLower(e.Name())
	for _, ending := range ignored {
		if strings.HasSuffix(name, ending) {
			return false
		}
	}
	return strings.HasSuffix(name, ".zip") && !strings.HasPrefix(name, ".") && e.Type().IsRegular()
}

// pending says whether the file of that name is already claimed.
func (f *Folder) pending(dir *os.File, name string) bool {
	for _, c := range f.claims {
		if c.Name != name {
			continue
		}
		if file, id, _, err := openDrop(dir, name); err == nil {
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
func (f *Folder) look(ctx context.Context, dir *os.File, name string, beside *sidecarReader, found *Found) {
	file, id, links, err := openDrop(dir, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotRegular) {
			found.Waiting = append(found.Waiting, Waiting{name, err.Error()})
		}
		return
	}
	defer file.Close()
	now := f.opts.Now()
	sidecars, fresh := beside.read(name)
	h := f.seen[name]
	steady := h != nil && h.id == id && h.links == links && h.beside == fresh.print
	if !steady {
		h = &history{id: id, links: links, beside: fresh.print, changed: now, pause: firstPause}
		f.seen[name] = h
	}
	s := sight{
		size: id.size, links: links, writer: writerOf(file), steady: steady,
		needSum: f.opts.NeedChecksum, needSig: f.opts.NeedSignature, sizeLimit: f.opts.MaxSize, patience: f.opts.Patience,
	}
	if s.writer == WriterOpen || h.written {
		h.changed = now // closing it is a change too
	}
	h.written = s.writer == WriterOpen
	s.quiet = now.Sub(h.changed)
	f.examine(ctx, file, sidecars, h, &s)
	s.checksum, s.signature = f.besideOf(name, sidecars, fresh)
	if s.writer != WriterOpen && s.shape >= Whole && f.outlived(file, name, sidecars) {
		s.checksum = unfinished
	}

	v := decide(s)
	soon := s.writer != WriterNone || fresh.written || links != 1
	if v.take {
		claim, err := f.claim(ctx, file, name, id, sidecars)
		if err == nil {
			delete(f.seen, name)
			found.Claims = append(found.Claims, claim)
			return
		}
		if ctx.Err() != nil {
			return
		}
		v.why, h.changed, soon = err.Error(), now, true
	} else if v.code != "" {
		delete(f.seen, name)
		found.Claims = append(found.Claims, f.giveUp(name, id, sidecars, v))
		return
	}
	found.Waiting = append(found.Waiting, Waiting{name, v.why})
	again := h.changed.Add(f.opts.Patience).Sub(now)
	if soon {
		again = min(max(again, firstPause), h.pause)
		h.pause = min(2*h.pause, lastPause)
	}
	if found.Again == 0 || again < found.Again {
		found.Again = max(again, firstPause)
	}
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
		s.checked = f.opts.Verify(ctx, file, s.size, sidecars) == nil
	}
}

// outlived says whether a sidecar is still that of an earlier drop of the same name,
// with other bytes, that is not put away yet: then the drop's own is still to come.
func (f *Folder) outlived(file *os.File, name string, now Sidecars) bool {
	for _, c := range f.claims {
		if c.Name != name || c.Reject != nil {
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
