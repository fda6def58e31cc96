package watcher

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
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

// maxSidecar bounds what is read of one: a list of some ten thousand names.
const maxSidecar = 1 << 20

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

// sidecarReader reads the sidecars of the drops in one scan; the lists once.
type sidecarReader struct {
	dir         *os.File
	read1       bool
	list, sums  []byte
	listWritten bool
}

func (r *sidecarReader) read(name string) (Sidecars, freshness) {
	if !r.read1 {
		var w1, w2 bool
		r.list, w1 = r.one(listName)
		r.sums, w2 = r.one(checksumsName)
		r.read1, r.listWritten = true, w1 || w2
	}
	s := Sidecars{List: r.list, Checksums: r.sums}
	fresh := freshness{written: r.listWritten}
	for ending, content := range s.own() {
		var written bool
		*content, written = r.one(name + ending)
		fresh.written = fresh.written || written
	}
	sum := sha256.New()
	for _, content := range [][]byte{s.SHA256, s.CRC32, s.List, s.Checksums, s.Minisig} {
		fmt.Fprintf(sum, "%t %d:%s", content != nil, len(content), content)
	}
	fresh.print = string(sum.Sum(nil))
	return s, fresh
}

// one reads a sidecar: nil if it is not there, or not a plain file. One with a second
// name is waited for, as a drop is: it may be a file that whoever dropped it cannot
// read, and its content would end up in a copy that everybody can.
func (r *sidecarReader) one(name string) (content []byte, written bool) {
	file, _, links, err := openDrop(r.dir, name)
	if err != nil {
		return nil, false
	}
	defer file.Close()
	if links != 1 {
		return nil, true
	}
	content, err = io.ReadAll(io.LimitReader(file, maxSidecar))
	if err != nil {
		return nil, false
	}
	if content == nil {
		content = []byte{}
	}
	return content, writerOf(file) == WriterOpen
}
