// Package manifest reads packages: zips with a manifest.json that says what is
// to be done, and the payload that it names. It writes nothing.
//
// A package passes four gates, in this order:
//
//  1. Sums and Sidecars: the bytes are those that somebody vouched for.
//  2. The container (container.go): two programs that disagree about what is in a
//     zip are an attack, so there must be nothing to disagree about. Entries tile
//     the file from its first byte to the directory, both headers of each entry
//     agree, names are plain and unique, sizes are within limits.
//  3. The document (document.go): manifest.json has the form of its schema, each
//     place is named once, and none leaves the tree.
//  4. The payload: each item's bytes are there, unpack to the size, checksum and
//     digest that were declared for them, and to nothing more.
//
// Open goes through 2 and 3 and the names of 4; Verify unpacks everything once and
// keeps nothing; Payload does it again for one item, for whoever stages it. What a
// package claims of its own size is never trusted with memory.
package manifest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"patchagent/manifest/reason"
)

// Limits bound what a package may be. A zero field means its default.
type Limits struct {
	MaxSize     int64 // of the zip, in bytes
	MaxUnpacked int64 // of all that is in it
	MaxFiles    int   // entries
	MaxRatio    int64 // unpacked : packed, for any one entry
}

func (l Limits) withDefaults() Limits {
	if l.MaxSize == 0 {
		l.MaxSize = 4 << 30
	}
	if l.MaxUnpacked == 0 {
		l.MaxUnpacked = 16 << 30
	}
	if l.MaxFiles == 0 {
		l.MaxFiles = 100_000
	}
	if l.MaxRatio == 0 {
		l.MaxRatio = 1000
	}
	return l
}

// Limits that are not for an operator to tune.
const (
	maxManifest = 32 << 20 // bytes; 100,000 items take half of it
	maxWindow   = 8 << 20  // bytes that a zstd stream may look back; RFC 8878 asks for 8 MiB

	// The names of the central directory are kept in memory. A header has 46 bytes, what
	// zip(1) adds to it 24; that leaves room for paths longer than most. A small
	// package may have longer ones.
	directoryPerFile = 256
	minDirectory     = 16 << 20

	// The manifest's values are gone through, known or not. An item of schema 2 has seven
	// keys with their values.
	valuesPerFile = 16
	minValues     = 10_000
	maxText       = 64 << 10 // bytes of one string: a description of many pages
	maxKey        = 256      // bytes; keys are compared without regard to case
	maxKeys       = 1000     // of one object, which are compared with each other; ours have up to eleven
	maxNotes      = 1000     // of one package; those beyond are only counted
)

// Op is what is to be done with an item.
type Op int

// The operations, in the order in which they are done.
const (
	Delete Op = iota
	Modify
	New
)

func (o Op) String() string { return [...]string{"delete", "modify", "new"}[o] }

// Item is one line of the manifest.
type Item struct {
	Op      Op
	Path    string      // its place: slash-separated, relative to the target's root, clean
	Payload string      // the entry of the zip; "" for Delete
	Size    int64       // unpacked, in bytes
	SHA256  string      // in lower-case hex; "" where the manifest has none
	Mode    fs.FileMode // permission bits that the manifest asks for, if ModeSet
	ModeSet bool
	ZipMode fs.FileMode // permission bits of the entry; 0644 where it has none
	Was     string      // SHA-256 of the file that it was made against, or ""

	entry *entry
}

// Package is an opened package. It reads from its file as long as it is used.
type Package struct {
	Manifest *Manifest
	Notes    []string // what an operator would want to know, one sentence each

	r       io.ReaderAt
	entries []*entry
	items   []Item
	inflate sync.Pool
	unzstd  sync.Pool // a decoder keeps its window, which an entry may ask to be of maxWindow
}

// Open reads the container and the manifest of a package of that size, strictly.
// Errors are *reason.Error.
func Open(r io.ReaderAt, size int64, limits Limits) (*Package, error) {
	limits = limits.withDefaults()
	if size > limits.MaxSize {
		return nil, reason.Errorf(reason.LimitExceeded, "the zip has %d bytes, more than verify.max_size (%d)", size, limits.MaxSize)
	}
	entries, _, err := readContainer(r, size, limits)
	if err != nil {
		return nil, err
	}
	p := &Package{r: r, entries: entries}
	if err := checkNames(entries, limits.MaxFiles); err != nil {
		return p, err
	}
	return p, p.read(limits)
}

// read finds the manifest, parses it and finds each item's payload.
func (p *Package) read(limits Limits) error {
	var notes notes
	defer func() { p.Notes = notes.list() }()
	byName := make(map[string]*entry, len(p.entries))
	for _, e := range p.entries {
		if !e.dir {
			byName[e.name] = e
		}
	}
	prefix := ""
	doc, nested := byName["manifest.json"], byName["patch/manifest.json"]
	switch {
	case doc == nil && nested == nil:
		return reason.Errorf(reason.ManifestMissing, "there is no manifest.json at the root of the zip or in its folder patch/%s", elsewhere(p.entries))
	case doc != nil && nested != nil:
		return reason.Errorf(reason.ManifestInvalid, "there are two manifests, manifest.json and patch/manifest.json")
	case nested != nil:
		doc, prefix = nested, "patch/"
	}
	if doc.size > maxManifest {
		return reason.Errorf(reason.LimitExceeded, "%s has %d bytes, more than %d", doc.name, doc.size, maxManifest)
	}
	data, err := p.readAll(doc)
	if err != nil {
		return err
	}
	if p.Manifest, p.items, err = parseDocument(data, limits.MaxFiles, &notes); err != nil {
		return err
	}
	listed := map[string]bool{doc.name: true}
	left := limits.MaxUnpacked
	for i := range p.items {
		it := &p.items[i]
		if err := p.find(it, prefix, byName, &notes); err != nil {
			return err
		}
		if left -= it.Size; left < 0 {
			return reason.Errorf(reason.LimitExceeded, "its items are larger together than verify.max_unpacked (%d bytes)", limits.MaxUnpacked)
		}
		listed[it.Payload] = true
	}
	return p.unlisted(listed, prefix, &notes)
}

// elsewhere says where a manifest is that is not where it must be.
func elsewhere(entries []*entry) string {
	for _, e := range entries {
		if strings.HasSuffix(e.name, "/manifest.json") && !e.dir {
			return "; there is " + e.name
		}
	}
	return ""
}

// notes keeps the first of many.
type notes struct {
	kept []string
	more int
}

func (n *notes) add(format string, args ...any) {
	if len(n.kept) == maxNotes {
		n.more++
		return
	}
	n.kept = append(n.kept, reason.Line(fmt.Sprintf(format, args...)))
}

func (n *notes) list() []string {
	if n.more == 0 {
		return n.kept
	}
	return append(n.kept, fmt.Sprintf("and %d more like these", n.more))
}

// find connects an item with its entry.
func (p *Package) find(it *Item, prefix string, byName map[string]*entry, notes *notes) error {
	if it.Op == Delete {
		return nil
	}
	it.Payload = prefix + it.Payload
	e := byName[it.Payload]
	if e == nil {
		return reason.Errorf(reason.PayloadMissing, "the manifest lists %s, and %s is not in the zip", it.Path, it.Payload)
	}
	if p.Manifest.Schema >= 2 && it.Size != e.size {
		return reason.Errorf(reason.PayloadMismatch, "the manifest says that %s has %d bytes, and it has %d", it.Payload, it.Size, e.size)
	}
	it.entry, it.Size, it.ZipMode = e, e.size, 0o644
	if perm := e.mode.Perm(); e.hasMode && perm != 0 {
		it.ZipMode = perm
	}
	if e.mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		notes.add("the set-id or sticky bits of %s are dropped", it.Payload)
	}
	return nil
}

// unlisted deals with files of the zip that the manifest does not name.
func (p *Package) unlisted(listed map[string]bool, prefix string, notes *notes) error {
	for _, e := range p.entries {
		if e.dir || listed[e.name] || strings.HasPrefix(e.name, prefix+"del/") && p.Manifest.Schema == 1 {
			continue
		}
		if p.Manifest.Schema >= 2 {
			return reason.Errorf(reason.PayloadMismatch, "%s is in the zip and not in the manifest", e.name)
		}
		notes.add("%s is in the zip and not in the manifest; it is ignored", e.name)
	}
	return nil
}

// Large says whether the package takes more memory than one may that waits with many
// others: it is to be opened again when its turn comes.
func (p *Package) Large() bool {
	const small = 1000 // some hundred bytes each
	return len(p.items)+len(p.entries) > small
}

// Items returns what is to be done: deletes, then modifies, then news.
func (p *Package) Items() []Item { return p.items }

// Payload returns the unpacked bytes of an item of this package. At its end it has
// checked their number, their CRC-32 and, where the manifest has one, their
// SHA-256; otherwise Read returns a *reason.Error. It never yields more than Size.
func (p *Package) Payload(it Item) (io.ReadCloser, error) {
	if it.entry == nil {
		return nil, fmt.Errorf("%s has no payload", it.Path)
	}
	r, err := p.open(it.entry)
	if err != nil || it.SHA256 == "" {
		return r, err
	}
	return &digestReader{ReadCloser: r, sum: sha256.New(), want: it.SHA256, name: it.Payload}, nil
}

// Verify unpacks every entry once and checks it as Payload does. Errors are
// *reason.Error, or the context's.
func (p *Package) Verify(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	digests := map[*entry]string{}
	for _, it := range p.items {
		if before, twice := digests[it.entry]; twice && it.SHA256 != before {
			return reason.Errorf(reason.PayloadMismatch, "the manifest gives %s two different digests", it.Payload)
		}
		digests[it.entry] = it.SHA256
	}
	work := make(chan *entry)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(p.entries)) {
		workers.Go(func() {
			buf := make([]byte, 64<<10)
			for e := range work {
				if err := p.verifyOne(ctx, e, digests[e], buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, e := range p.entries {
		if !e.dir || e.packed > 0 || e.crc != 0 {
			work <- e
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

func (p *Package) verifyOne(ctx context.Context, e *entry, digest string, buf []byte) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := p.hidesAnEnd(ctx, e); err != nil {
		return err
	}
	r, err := p.Payload(Item{entry: e, Payload: e.name, SHA256: digest})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		switch _, err := r.Read(buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return nil
		}
	}
}

// hidesAnEnd refuses an entry that ends earlier for whoever reads the zip from its
// beginning to its end: stored, without its size before it, and with a data descriptor
// inside that fits what is before that (4.3.9).
func (p *Package) hidesAnEnd(ctx context.Context, e *entry) error {
	if e.method != methodStore || e.flags&flagDescriptor == 0 {
		return nil
	}
	const signature = "PK\x07\x08"
	r := bufio.NewReaderSize(io.NewSectionReader(p.r, e.data, e.packed), 64<<10)
	crc, n := uint32(0), uint64(0)
	skip := func(data []byte) {
		crc, n = crc32.Update(crc, crc32.IEEETable, data), n+uint64(len(data))
		_, _ = r.Discard(len(data))
	}
	for ctx.Err() == nil {
		_, err := r.Peek(len(signature) + descriptorLen64) // it reads only where that is not there
		ahead, _ := r.Peek(r.Buffered())
		if len(ahead) < len(signature) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		before, _, ok := bytes.Cut(ahead, []byte(signature))
		if !ok {
			skip(ahead[:len(ahead)-len(signature)+1])
			continue
		}
		skip(before)
		d, _ := r.Peek(len(signature) + descriptorLen64)
		short := len(d) >= len(signature)+descriptorLen && le32(d[4:]) == crc && uint64(le32(d[8:])) == n
		long := len(d) >= len(signature)+descriptorLen64 && le32(d[4:]) == crc && le64(d[8:]) == n
		if short || long {
			return bad("%s ends twice: there is a data descriptor inside that fits what is before it", e.name)
		}
		skip(d[:len(signature)])
	}
	return nil // the caller knows
}

func (p *Package) readAll(e *entry) ([]byte, error) {
	r, err := p.open(e)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, 0, e.size+1) // with room to see the end
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// open unpacks an entry.
func (p *Package) open(e *entry) (io.ReadCloser, error) {
	packed := bufio.NewReader(io.NewSectionReader(p.r, e.data, e.packed))
	s := &stream{entry: e, packed: packed, left: e.size, close: func() {}}
	switch e.method {
	case methodStore:
		s.r = packed
	case methodDeflate:
		f, ok := p.inflate.Get().(io.ReadCloser)
		if !ok {
			f = flate.NewReader(packed)
		} else if err := f.(flate.Resetter).Reset(packed, nil); err != nil {
			return nil, err
		}
		s.r, s.close = f, func() { p.inflate.Put(f) }
	case methodZstd:
		z, ok := p.unzstd.Get().(*zstd.Decoder)
		if !ok {
			var err error
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
				return nil, e.damaged(err)
			}
		}
		if err := z.Reset(packed); err != nil {
			return nil, e.damaged(err)
		}
		s.r, s.close = z, func() { p.unzstd.Put(z) }
	}
	return s, nil
}

// stream is an entry while it is unpacked.
type stream struct {
	entry  *entry
	packed *bufio.Reader
	r      io.Reader
	left   int64
	crc    uint32
	close  func()
	done   error
}

func (e *entry) damaged(err error) error {
	return reason.Errorf(reason.Incomplete, "%s in the zip is damaged or not fully copied: %w", e.name, err)
}

var errLonger = errors.New("it unpacks to more than its declared size")

func (s *stream) Read(p []byte) (int, error) {
	if s.done != nil {
		return 0, s.done
	}
	n, err := s.r.Read(p)
	if int64(n) > s.left {
		s.done = s.entry.damaged(errLonger)
		return 0, s.done
	}
	s.left -= int64(n)
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p[:n])
	switch {
	case errors.Is(err, io.EOF):
		s.done = s.end()
	case err != nil:
		s.done = s.entry.damaged(err)
	}
	if n > 0 {
		return n, nil // the end, good or bad, is told with the next call
	}
	return 0, s.done
}

// end checks what can only be known at the end.
func (s *stream) end() error {
	if s.left > 0 {
		return s.entry.damaged(fmt.Errorf("it ends after %d of %d bytes", s.entry.size-s.left, s.entry.size))
	}
	if s.crc != s.entry.crc {
		return s.entry.damaged(fmt.Errorf("its checksum is %08x and not %08x", s.crc, s.entry.crc))
	}
	if _, err := s.packed.ReadByte(); !errors.Is(err, io.EOF) {
		return reason.Errorf(reason.NotAZip, "%s in the zip has %s after its end", s.entry.name, "data")
	}
	return io.EOF
}

func (s *stream) Close() error {
	s.close()
	s.close = func() {}
	s.done = fs.ErrClosed
	return nil
}

// digestReader checks a digest at the end of what it reads.
type digestReader struct {
	io.ReadCloser
	sum  hash.Hash
	want string
	name string
}

func (d *digestReader) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(d.sum.Sum(nil)); got != d.want {
			return n, reason.Errorf(reason.PayloadMismatch, "%s has the SHA-256 %s, and the manifest says %s", d.name, got, d.want)
		}
	}
	return n, err
}
