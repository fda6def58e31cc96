package manifest

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"patchagent/manifest/reason"
)

// part is one entry of a zip that is made byte by byte. What is not set is as an
// honest program would write it; hooks change the finished headers.
type part struct {
	name      string
	data      string
	method    uint16
	flags     uint16
	mode      uint32 // Unix mode; 0: made on DOS
	extra     []byte // in the directory
	localEx   []byte // in the local header
	localName string
	desc      int // length of a data descriptor: 0, 12, 16, 20, 24
	gap       string
	local     func(h []byte) // the 30 bytes of the local header
	central   func(h []byte) // the 46 bytes of the directory's
	packed    []byte         // in place of the real one
}

// maker builds a zip.
type maker struct {
	parts   []part
	prefix  string
	suffix  string
	comment string
	before  string         // between the last entry and the directory
	after   string         // in the directory, after its last entry
	zip64   bool           // with a zip64 end record
	end     func(h []byte) // the end record, with its comment
	end64   func(h []byte) // the zip64 end record and its locator
}

func put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
func put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }

func compress(method uint16, data string) []byte {
	var buf bytes.Buffer
	switch method {
	case methodDeflate:
		w, _ := flate.NewWriter(&buf, 6)
		_, _ = io.WriteString(w, data)
		_ = w.Close()
	case methodZstd:
		w, _ := zstd.NewWriter(&buf)
		_, _ = io.WriteString(w, data)
		_ = w.Close()
	default:
		buf.WriteString(data)
	}
	return buf.Bytes()
}

func (m maker) bytes() []byte {
	var out, directory bytes.Buffer
	out.WriteString(m.prefix)
	for _, p := range m.parts {
		p.write(&out, &directory)
	}
	out.WriteString(m.before)
	at := out.Len()
	out.Write(directory.Bytes())
	out.WriteString(m.after)
	m.writeEnd(&out, at, directory.Len()+len(m.after))
	out.WriteString(m.suffix)
	return out.Bytes()
}

func (p part) write(out, directory *bytes.Buffer) {
	packed := p.packed
	if packed == nil {
		packed = compress(p.method, p.data)
	}
	crc := crc32.ChecksumIEEE([]byte(p.data))
	if p.desc > 0 {
		p.flags |= flagDescriptor
	}
	if p.localName == "" {
		p.localName = p.name
	}
	at := out.Len()
	local := make([]byte, localLen)
	put32(local, 0, localSignature)
	put16(local, 4, 20)
	put16(local, 6, p.flags)
	put16(local, 8, p.method)
	if p.desc == 0 {
		put32(local, 14, crc)
		put32(local, 18, uint32(len(packed)))
		put32(local, 22, uint32(len(p.data)))
	}
	put16(local, 26, uint16(len(p.localName)))
	put16(local, 28, uint16(len(p.localEx)))
	if p.local != nil {
		p.local(local)
	}
	out.Write(local)
	out.WriteString(p.localName)
	out.Write(p.localEx)
	out.Write(packed)
	out.Write(descriptor(p.desc, crc, len(packed), len(p.data)))
	out.WriteString(p.gap)

	central := make([]byte, directoryLen)
	put32(central, 0, directorySig)
	put16(central, 4, 20)
	put16(central, 6, 20)
	if p.mode != 0 {
		central[5] = madeOnUnix
		put32(central, 38, p.mode<<16)
	}
	put16(central, 8, p.flags)
	put16(central, 10, p.method)
	put32(central, 16, crc)
	put32(central, 20, uint32(len(packed)))
	put32(central, 24, uint32(len(p.data)))
	put16(central, 28, uint16(len(p.name)))
	put16(central, 30, uint16(len(p.extra)))
	put32(central, 42, uint32(at))
	if p.central != nil {
		p.central(central)
	}
	directory.Write(central)
	directory.WriteString(p.name)
	directory.Write(p.extra)
}

func descriptor(n int, crc uint32, packed, size int) []byte {
	d := make([]byte, n)
	body := d
	if n == 16 || n == 24 {
		put32(d, 0, descriptorSig)
		body = d[4:]
	}
	switch {
	case n == 0:
	case len(body) == descriptorLen64:
		put32(body, 0, crc)
		put64(body, 4, uint64(packed))
		put64(body, 12, uint64(size))
	default:
		put32(body, 0, crc)
		put32(body, 4, uint32(packed))
		put32(body, 8, uint32(size))
	}
	return d
}

func (m maker) writeEnd(out *bytes.Buffer, at, size int) {
	end := make([]byte, endLen+len(m.comment))
	put32(end, 0, endSignature)
	put16(end, 8, uint16(len(m.parts)))
	put16(end, 10, uint16(len(m.parts)))
	put32(end, 12, uint32(size))
	put32(end, 16, uint32(at))
	put16(end, 20, uint16(len(m.comment)))
	copy(end[endLen:], m.comment)
	if m.zip64 {
		wide := make([]byte, end64Len+locatorLen)
		put32(wide, 0, end64Signature)
		put64(wide, 4, end64Len-12)
		put16(wide, 12, 45)
		put16(wide, 14, 45)
		put64(wide, 24, uint64(len(m.parts)))
		put64(wide, 32, uint64(len(m.parts)))
		put64(wide, 40, uint64(size))
		put64(wide, 48, uint64(at))
		put32(wide, end64Len, locatorSig)
		put64(wide, end64Len+8, uint64(out.Len()))
		put32(wide, end64Len+16, 1)
		if m.end64 != nil {
			m.end64(wide)
		}
		out.Write(wide)
		put16(end, 8, full16)
		put16(end, 10, full16)
		put32(end, 12, full32)
		put32(end, 16, full32)
	}
	if m.end != nil {
		m.end(end)
	}
	out.Write(end)
}

const plainDoc = `{"region": "r", "build": "1", "modfiles": [{"name": "a", "path": "/"}]}`

// plain is a package of one file; with replaces the file's entry.
func plain(with part) maker {
	if with.name == "" {
		with.name = "mod/a"
	}
	return maker{parts: []part{{name: "manifest.json", data: plainDoc}, with}}
}

// doc is a package with that manifest and the given payload.
func doc(manifest string, payload ...string) maker {
	m := maker{parts: []part{{name: "manifest.json", data: manifest, method: methodDeflate}}}
	for _, name := range payload {
		m.parts = append(m.parts, part{name: name, data: "payload"})
	}
	return m
}

// openAll opens, verifies and reads everything there is.
func openAll(data []byte, limits Limits) (*Package, map[string]string, error) {
	p, err := Open(bytes.NewReader(data), int64(len(data)), limits)
	if err != nil {
		return p, nil, err
	}
	if err := p.Verify(context.Background()); err != nil {
		return p, nil, err
	}
	got := map[string]string{}
	for _, it := range p.Items() {
		if it.Op == Delete {
			got["delete "+it.Path] = ""
			continue
		}
		r, err := p.Payload(it)
		if err != nil {
			return p, nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return p, nil, err
		}
		got[it.Op.String()+" "+it.Path] = string(content)
	}
	return p, got, nil
}

func wantCode(t *testing.T, err error, want reason.Code) {
	t.Helper()
	if code, _ := reason.Of(err); code != want {
		t.Errorf("got %q (%v), want %q", code, err, want)
	}
}
