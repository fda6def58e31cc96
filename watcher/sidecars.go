package watcher

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Sidecars are the contents of the files beside a drop; nil for those that are not
// there. It mirrors manifest.Sidecars.
type Sidecars struct {
	SHA256    []byte // NAME.zip.sha256
	CRC32     []byte // NAME.zip.crc32
	List      []byte // SHA256SUMS, shared by all drops
	Checksums []byte // checksums.txt, likewise
	Minisig   []byte // NAME.zip.minisig
}

// Names of the lists.
const (
	listName      = "SHA256SUMS"
	checksumsName = "checksums.txt"
)

// Bounds of what is read: of a list some ten thousand names; of what belongs to one
// drop a line or two with long names and comments, since it is kept for each drop
// that waits.
const (
	maxList = 1 << 20
	maxOwn  = 16 << 10
)

// ownEndings are those of the sidecars that belong to one drop.
var ownEndings = []string{".sha256", ".crc32", ".minisig"}

// own are the endings of the sidecars that belong to one drop and travel with it,
// and where their contents go.
func (s *Sidecars) own() map[string]*[]byte {
	return map[string]*[]byte{".sha256": &s.SHA256, ".crc32": &s.CRC32, ".minisig": &s.Minisig}
}

// kept are the files in a claim's folder that hold the sidecars, and where their
// contents go: those of the drop, and the lists as they were.
func (s *Sidecars) kept() map[string]*[]byte {
	files := map[string]*[]byte{listName: &s.List, checksumsName: &s.Checksums}
	for ending, content := range s.own() {
		files[packageName+ending] = content
	}
	return files
}

// freshness says what matters of the sidecars' state beside their content.
type freshness struct {
	print   string // changes when any of them does
	written bool   // somebody has one of them open for writing
}

// SidecarsBeside reads the sidecars of a zip that is no drop, as those of a drop would
// be: up to their bounds, and nothing that is not a plain file. It minds no second name
// of theirs.
func SidecarsBeside(zip string) (Sidecars, error) {
	dir, err := os.Open(filepath.Dir(zip))
	if err != nil {
		return Sidecars{}, fmt.Errorf("cannot look beside the zip: %w", err)
	}
	defer dir.Close()
	r := sidecarReader{dir: dir, linked: true, known: new([2][]byte)}
	s, _ := r.read(filepath.Base(zip))
	return s, nil
}

// sidecarReader reads the sidecars of the drops in one scan; the lists once.
type sidecarReader struct {
	dir         *os.File
	linked      bool // second names are fine
	read1       bool
	known       *[2][]byte // the lists as an earlier scan has read them
	listPrint   [sha256.Size]byte
	listWritten bool
}

func (r *sidecarReader) read(name string) (Sidecars, freshness) {
	if !r.read1 {
		r.readLists()
	}
	s := Sidecars{List: r.known[0], Checksums: r.known[1]}
	fresh := freshness{written: r.listWritten}
	for ending, content := range s.own() {
		var written bool
		*content, written = r.one(name+ending, maxOwn)
		fresh.written = fresh.written || written
	}
	sum := sha256.New()
	sum.Write(r.listPrint[:])
	printOf(sum, s.SHA256, s.CRC32, s.Minisig)
	fresh.print = string(sum.Sum(nil))
	return s, fresh
}

// readLists reads the lists. One that is as it was is not kept a second time: each
// claim holds on to those that it was taken with.
func (r *sidecarReader) readLists() {
	sum := sha256.New()
	for i, name := range []string{listName, checksumsName} {
		content, written := r.one(name, maxList)
		if was := r.known[i]; (was == nil) != (content == nil) || !bytes.Equal(was, content) {
			r.known[i] = content
		}
		r.listWritten = r.listWritten || written
		printOf(sum, content)
	}
	sum.Sum(r.listPrint[:0])
	r.read1 = true
}

func printOf(w io.Writer, contents ...[]byte) {
	for _, content := range contents {
		fmt.Fprintf(w, "%t %d:", content != nil, len(content))
		_, _ = w.Write(content)
	}
}

// one reads a sidecar, up to a bound: nil if it is not there, or not a plain file. One
// with a second name is waited for, as a drop is: it may be a file that whoever
// dropped it cannot read, and its content would end up in a copy that everybody can.
func (r *sidecarReader) one(name string, most int64) (content []byte, written bool) {
	file, _, links, err := openDrop(r.dir, name)
	if err != nil {
		// Where there is no descriptor left, it cannot be known yet what is there.
		return nil, errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
	}
	defer file.Close()
	if links != 1 && !r.linked {
		return nil, true
	}
	content, err = io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return nil, false
	}
	if content == nil {
		content = []byte{}
	}
	return content, writerOf(file) == WriterOpen
}
