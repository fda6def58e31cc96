package hostile

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// The format is PKWARE's APPNOTE.TXT. These are a writer's own, so that a mistake in
// the reader is not made here, too.
const (
	localSignature  = 0x04034b50
	directorySig    = 0x02014b50
	endSignature    = 0x06054b50
	end64Signature  = 0x06064b50
	locatorSig      = 0x07064b50
	descriptorSig   = 0x08074b50
	localLen        = 30
	directoryLen    = 46
	endLen          = 22
	end64Len        = 56
	locatorLen      = 20
	descriptorLen64 = 20
	extraZip64      = 0x0001
	extraUnicode    = 0x7075
	madeOnUnix      = 3
	madeOnMac       = 19
	dosFolder       = 0x10
	flagEncrypted   = 1 << 0
	flagDescriptor  = 1 << 3
	full16          = 1<<16 - 1
	full32          = 1<<32 - 1
)

// The methods that packages are packed by.
const (
	Store   = 0
	Deflate = 8
	Zstd    = 93
)

// Part is one entry of a zip that is made byte by byte. What is not set is as an
// honest program would write it; hooks change the finished headers.
type Part struct {
	Name      string
	Data      string
	Method    uint16
	Flags     uint16
	Mode      uint32 // Unix mode; 0: made on DOS
	Extra     []byte // in the directory
	LocalEx   []byte // in the local header
	LocalName string
	Desc      int // length of a data descriptor: 0, 12, 16, 20, 24
	Gap       string
	Local     func(h []byte) // the 30 bytes of the local header
	Central   func(h []byte) // the 46 bytes of the directory's
	Packed    []byte         // in place of the real one
}

// Zip builds a zip.
type Zip struct {
	Parts   []Part
	Prefix  string
	Suffix  string
	Comment string
	Before  string         // between the last entry and the directory
	After   string         // in the directory, after its last entry
	Zip64   bool           // with a zip64 end record
	End     func(h []byte) // the end record, with its comment
	End64   func(h []byte) // the zip64 end record and its locator
}

// Put16 writes a number as zips have it.
func Put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }

// Put32 is Put16 for 32 bits.
func Put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

// Put64 is Put16 for 64 bits.
func Put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }

// Compress packs data by one of the methods.
func Compress(method uint16, data string) []byte {
	var buf bytes.Buffer
	switch method {
	case Deflate:
		w, _ := flate.NewWriter(&buf, 6)
		_, _ = io.WriteString(w, data)
		_ = w.Close()
	case Zstd:
		w, _ := zstd.NewWriter(&buf)
		_, _ = io.WriteString(w, data)
		_ = w.Close()
	default:
		buf.WriteString(data)
	}
	return buf.Bytes()
}

// Bytes returns the zip.
func (m Zip) Bytes() []byte {
	var out, directory bytes.Buffer
	out.WriteString(m.Prefix)
	for _, p := range m.Parts {
		p.write(&out, &directory)
	}
	out.WriteString(m.Before)
	at := out.Len()
	out.Write(directory.Bytes())
	out.WriteString(m.After)
	m.writeEnd(&out, at, directory.Len()+len(m.After))
	out.WriteString(m.Suffix)
	return out.Bytes()
}

func (p Part) write(out, directory *bytes.Buffer) {
	packed := p.Packed
	if packed == nil {
		packed = Compress(p.Method, p.Data)
	}
	crc := crc32.ChecksumIEEE([]byte(p.Data))
	if p.Desc > 0 {
		p.Flags |= flagDescriptor
	}
	if p.LocalName == "" {
		p.LocalName = p.Name
	}
	at := out.Len()
	local := make([]byte, localLen)
	Put32(local, 0, localSignature)
	Put16(local, 4, 20)
	Put16(local, 6, p.Flags)
	Put16(local, 8, p.Method)
	if p.Desc == 0 {
		Put32(local, 14, crc)
		Put32(local, 18, uint32(len(packed)))
		Put32(local, 22, uint32(len(p.Data)))
	}
	Put16(local, 26, uint16(len(p.LocalName)))
	Put16(local, 28, uint16(len(p.LocalEx)))
	if p.Local != nil {
		p.Local(local)
	}
	out.Write(local)
	out.WriteString(p.LocalName)
	out.Write(p.LocalEx)
	out.Write(packed)
	out.Write(descriptor(p.Desc, crc, len(packed), len(p.Data)))
	out.WriteString(p.Gap)

	central := make([]byte, directoryLen)
	Put32(central, 0, directorySig)
	Put16(central, 4, 20)
	Put16(central, 6, 20)
	if p.Mode != 0 {
		central[5] = madeOnUnix
		Put32(central, 38, p.Mode<<16)
	}
	Put16(central, 8, p.Flags)
	Put16(central, 10, p.Method)
	Put32(central, 16, crc)
	Put32(central, 20, uint32(len(packed)))
	Put32(central, 24, uint32(len(p.Data)))
	Put16(central, 28, uint16(len(p.Name)))
	Put16(central, 30, uint16(len(p.Extra)))
	Put32(central, 42, uint32(at))
	if p.Central != nil {
		p.Central(central)
	}
	directory.Write(central)
	directory.WriteString(p.Name)
	directory.Write(p.Extra)
}

func descriptor(n int, crc uint32, packed, size int) []byte {
	d := make([]byte, n)
	body := d
	if n == 16 || n == 24 {
		Put32(d, 0, descriptorSig)
		body = d[4:]
	}
	switch {
	case n == 0:
	case len(body) == descriptorLen64:
		Put32(body, 0, crc)
		Put64(body, 4, uint64(packed))
		Put64(body, 12, uint64(size))
	default:
		Put32(body, 0, crc)
		Put32(body, 4, uint32(packed))
		Put32(body, 8, uint32(size))
	}
	return d
}

func (m Zip) writeEnd(out *bytes.Buffer, at, size int) {
	end := make([]byte, endLen+len(m.Comment))
	Put32(end, 0, endSignature)
	Put16(end, 8, uint16(len(m.Parts)))
	Put16(end, 10, uint16(len(m.Parts)))
	Put32(end, 12, uint32(size))
	Put32(end, 16, uint32(at))
	Put16(end, 20, uint16(len(m.Comment)))
	copy(end[endLen:], m.Comment)
	if m.Zip64 {
		wide := make([]byte, end64Len+locatorLen)
		Put32(wide, 0, end64Signature)
		Put64(wide, 4, end64Len-12)
		Put16(wide, 12, 45)
		Put16(wide, 14, 45)
		Put64(wide, 24, uint64(len(m.Parts)))
		Put64(wide, 32, uint64(len(m.Parts)))
		Put64(wide, 40, uint64(size))
		Put64(wide, 48, uint64(at))
		Put32(wide, end64Len, locatorSig)
		Put64(wide, end64Len+8, uint64(out.Len()))
		Put32(wide, end64Len+16, 1)
		if m.End64 != nil {
			m.End64(wide)
		}
		out.Write(wide)
		Put16(end, 8, full16)
		Put16(end, 10, full16)
		Put32(end, 12, full32)
		Put32(end, 16, full32)
	}
	if m.End != nil {
		m.End(end)
	}
	out.Write(end)
}

// PlainDoc is a sound manifest, which modifies the file a.
const PlainDoc = `{"region": "r", "build": "1", "modfiles": [{"name": "a", "path": "/"}]}`

// Plain is a package of one file; with replaces the file's entry.
func Plain(with Part) Zip {
	if with.Name == "" {
		with.Name = "mod/a"
	}
	return Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc}, with}}
}

// Doc is a package with that manifest and the given payload.
func Doc(manifest string, payload ...string) Zip {
	m := Zip{Parts: []Part{{Name: "manifest.json", Data: manifest, Method: Deflate}}}
	for _, name := range payload {
		m.Parts = append(m.Parts, Part{Name: name, Data: "payload"})
	}
	return m
}
