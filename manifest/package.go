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
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"patchagent/manifest/reason"
)

// Limits bound what a package may be. A zero field means its default.
type Limits struct {
	MaxSize     int64 // of the zip, in bytes
	MaxUnpacked int64 // of all that is in it, and of all that its items write
	MaxFiles    int   // entries; and items of the manifest, and folders of either
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
